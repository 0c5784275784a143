"""The Open Inference Protocol over gRPC, for clients that exist already."""
