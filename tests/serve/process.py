"""`genrecall serve` as a process of its own."""

from genrecall.serve.chaos.target import Target as Served
from genrecall.serve.chaos.target import serving as serve

__all__ = ["Served", "serve"]
