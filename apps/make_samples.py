#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the sample captures of `make demo`: QPSK under simulated OFDM, and the same QPSK under a recording of WiFi.

Writes into the output folder:
  qpsk_under_ofdm.sigmf-{meta,data}   the mixture, ci16_le at 20 MS/s, SIR -18 dB, noise 20 dB below the QPSK
  qpsk_under_ofdm_true_bits.u8             the QPSK's bits, one byte each
and with --wifi RECORDING (an interference recording at 20 MS/s)
  qpsk_under_wifi.sigmf-{meta,data}   the same QPSK under that recording, ci16_le, SIR -9 dB
  qpsk_under_wifi_true_bits.u8
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from gnuradio.unmix import captures, signals
from sigmf import SigMFFile

SAMPLE_RATE = 20e6
WINDOWS, WINDOW, SPS = 64, 2560, 16


def write_ci16(stem: Path, samples: np.ndarray, description: str, licence: str) -> None:
    """Write complex samples as ci16_le SigMF, scaled so that the largest value is 90 % of full scale."""
    scale = 0.9 * 32767 / max(np.abs(samples.real).max(), np.abs(samples.imag).max())
    pairs = np.stack([samples.real, samples.imag], -1) * scale
    data = stem.with_name(stem.name + ".sigmf-data")
    np.round(pairs).astype("<i2").tofile(data)
    meta = SigMFFile(data_file=str(data), global_info={
        "core:datatype": "ci16_le", "core:sample_rate": SAMPLE_RATE,
        "core:description": description, "core:license": licence,
        "core:author": "gr-unmix, apps/make_samples.py"})
    meta.add_capture(0)
    meta.validate()
    meta.tofile(str(stem.with_name(stem.name + ".sigmf-meta")), overwrite=True)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "samples", metavar="DIR")
    parser.add_argument("--wifi", metavar="RECORDING", help="interference recording for the second sample")
    parser.add_argument("--wifi-sir-db", type=float, default=-9)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args(argv)
    try:
        recording = captures.open_capture(args.wifi) if args.wifi else None
        args.output.mkdir(parents=True, exist_ok=True)
    except (captures.CaptureError, OSError) as error:
        print(f"make_samples.py: {error}", file=sys.stderr)
        return 2

    rng = np.random.default_rng(args.seed)
    length = WINDOWS * WINDOW
    soi, bits = (a[0] for a in signals.linear_modulation(rng, 1, length // SPS))
    if recording is None:
        ofdm = signals.cp_ofdm(rng, 1, length, "qpsk")[0][0]
        mixture = soi + signals.kappa(-18) * ofdm + signals.noise(rng, (length,), 10 ** (-20 / 10))
        write_ci16(args.output / "qpsk_under_ofdm", mixture,
                   "Simulated: RRC-QPSK (16 samples/symbol, roll-off 0.5, span 8) under 802.11-like CP-OFDM QPSK "
                   "at SIR -18 dB, white noise 20 dB below the QPSK.", "https://spdx.org/licenses/CC0-1.0.html")
        bits.tofile(args.output / "qpsk_under_ofdm_true_bits.u8")
    else:
        wifi = recording.read(0, min(length, recording.length // SPS * SPS))
        wifi = wifi / np.sqrt(np.mean(np.abs(wifi) ** 2))
        mixture = soi[:len(wifi)] + signals.kappa(args.wifi_sir_db) * wifi
        origin = recording.metadata.get("core:description", Path(args.wifi).name)
        write_ci16(args.output / "qpsk_under_wifi", mixture,
                   "RRC-QPSK (16 samples/symbol, roll-off 0.5, span 8) under recorded WiFi at SIR "
                   f"{args.wifi_sir_db:g} dB. Recording: {origin}",
                   recording.metadata.get("core:license", ""))
        bits[:len(wifi) // SPS * 2].tofile(args.output / "qpsk_under_wifi_true_bits.u8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
