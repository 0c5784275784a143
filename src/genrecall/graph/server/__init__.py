"""SavedModels behind the gateway's door, as TensorFlow Serving's REST API and as the Open Inference Protocol."""
