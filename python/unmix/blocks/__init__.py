# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio blocks, one file each, imported when they are first asked for: the rest of the package needs no GNU Radio.

`from gnuradio import unmix; unmix.separator_cc(...)` is the usual way to them.
"""

import importlib

#: Name of each block or helper and the module that holds it; a module named like its block would hide it.
NAMES = {
    "separator_cc": "separator",
    "rrc_qpsk_source": "qpsk_source",
    "cp_ofdm_source": "ofdm_source",
    "sir_mixer": "mixer",
    "capture_source": "capture_file",
    "qpsk_receiver": "receiver",
    "unique_word_sync_cc": "unique_word",
    "ber_meter": "ber",
    "random_bits": "bits",
    "read_bits": "bits",
}


def __getattr__(name: str):
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        importlib.import_module("gnuradio.gr")
    except ImportError as error:
        raise ImportError(f"unmix.{name} is a GNU Radio block, and this Python cannot import gnuradio.gr ({error}); "
                          "the rest of gnuradio.unmix works without it") from error
    return getattr(importlib.import_module(f".{NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *NAMES])
