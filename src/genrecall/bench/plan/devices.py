"""What the makers' data sheets say of GPUs, for plans without a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from genrecall.errors import ConfigError
from genrecall.hardware import stated_flops


@dataclass(frozen=True, kw_only=True)
class DeviceRates:
    """What a device can do at most.

    Attributes:
        name: of the device.
        flops: dense bf16 FLOP/s.
        bytes_per_s: of its memory.
        memory_bytes: of it.
        source: where the first two are from.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: float
    source: str


# Name in `hardware`'s list of peaks, bytes/s and bytes: NVIDIA's data sheets of the SXM parts, the L40S and the L4.
_SHEETS = {
    "h200": ("H200", 4.8e12, 141e9),
    "h100": ("H100", 3.35e12, 80e9),
    "a100": ("A100", 2.039e12, 80e9),
    "l40s": ("L40S", 864e9, 48e9),
    "l4": ("L4", 300e9, 24e9),
}


def stated(name: str) -> DeviceRates:
    """A device by its name.

    Raises:
        ConfigError: not one of the list.
    """
    if name not in _SHEETS:
        raise ConfigError(
            "nothing is stated of this device",
            seen=name,
            allowed=", ".join(_SHEETS),
            fix="choose the nearest --gpu, or give --measured of your own",
        )
    known, bandwidth, memory = _SHEETS[name]
    flops = stated_flops(known)
    assert flops is not None, "every device of the list has a peak"
    return DeviceRates(
        name=known, flops=flops, bytes_per_s=bandwidth, memory_bytes=memory, source="the maker's data sheet"
    )
