"""Reading a model directory: nothing is fetched, the libraries keep quiet, what they refuse is said in four parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from genrecall.errors import ConfigError

_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@contextlib.contextmanager
def loading(directory: Path) -> Iterator[None]:
    """Set the hub's offline switches and hide its bars; both are restored at the end.

    Args:
        directory: what is read, for the message.
    """
    from transformers.utils import logging

    before = {name: os.environ.get(name) for name in _SWITCHES}
    bars = logging.is_progress_bar_enabled()
    os.environ.update(dict.fromkeys(_SWITCHES, "1"))
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"the encoder in {directory} cannot be loaded",
            seen=f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}",
            allowed="a whole model: config.json, tokenizer files and *.safetensors that this transformers can read",
            fix="save model and tokenizer again with save_pretrained into this directory",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
