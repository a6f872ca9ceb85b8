# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of 802.11a/g/n in 20 MHz at 20 MS/s: what the standard says of them, and how they are found in a mixture."""
