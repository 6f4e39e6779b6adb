"""Devices every new database knows, so that `FITS ON 'rtx-4090'` works at once.

Memory is what the vendor's data sheet states for the whole device; an operating system and a
runtime take their share, so a model that just fits on paper may not fit. Peaks are float32 without
sparsity; what a data sheet does not state is unknown. REGISTER DEVICE replaces or adds rows.
"""

from __future__ import annotations

from sommelier.records import Device

_GIB, _KIB = 2.0**30, 2.0**10


def _accelerator(name: str, gib: float, tflops: float | None, gb_per_s: float | None) -> Device:
    return Device(
        name,
        gib * _GIB,
        None if tflops is None else tflops * 1e12,
        None if gb_per_s is None else gb_per_s * 1e9,
        "data sheet",
    )


KNOWN_DEVICES: tuple[Device, ...] = (
    _accelerator("a100-40gb", 40, 19.5, 1555),
    _accelerator("a100-80gb", 80, 19.5, 2039),
    _accelerator("h100-80gb", 80, 67, 3350),
    _accelerator("h200", 141e9 / _GIB, 67, 4800),
    _accelerator("jetson-nano", 4, 0.236, 25.6),
    _accelerator("jetson-orin-nano-8gb", 8, 1.28, 68),
    _accelerator("l4", 24, 30.3, 300),
    _accelerator("raspberry-pi-4", 4, None, None),
    _accelerator("raspberry-pi-5", 8, None, None),
    _accelerator("raspberry-pi-zero-2", 0.5, None, None),
    _accelerator("rtx-3090", 24, 35.6, 936),
    _accelerator("rtx-4090", 24, 82.6, 1008),
    _accelerator("rtx-5090", 32, 104.8, 1792),
    _accelerator("t4", 16, 8.1, 320),
    _accelerator("v100-16gb", 16, 15.7, 900),
    Device(
        "arduino-nano-33-ble", 256 * _KIB, None, None, "data sheet; RAM, weights may be in flash"
    ),
    Device("nucleo-l4r5zi", 640 * _KIB, None, None, "data sheet; RAM, weights may be in flash"),
)
