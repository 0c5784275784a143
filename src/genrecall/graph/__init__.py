"""Generative recall inside TensorFlow graphs: operators, SavedModels made from bundles, and a server for them.

    events ─ BehaviorSequence ─ prompt ─ GenRecall ─ items ─ (your ops) ─ ranking ─ response
                                            │ Unix socket
                                       engine worker

Needs the extra ``[tf]``. Nothing here imports torch but making a graph from a bundle, which reads its tokenizer.
"""
