"""SavedModels behind the gateway's own door, in the dialects of TensorFlow Serving and of the Open Inference Protocol."""
