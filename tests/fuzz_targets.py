# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be thrown at the readers, and what must hold whatever comes: shared by qa_fuzz.py and fuzz_atheris.py.

Each target takes bytes. It returns where the input was used or refused as it should be, and raises AssertionError, or
whatever escaped, where not. Refused means: the one exception that is allowed, one printable sentence, nothing written,
no Python pickle opened, and no memory in proportion to a number that the input claims.
"""

import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import threading
import tracemalloc
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import captures, priors
from gnuradio.unmix.blocks.bits import read_bits
from gnuradio.unmix.captures import CaptureError
from gnuradio.unmix.captures.formats import KINDS, parse_format
from gnuradio.unmix.captures.names import parse_file_name
from gnuradio.unmix.priors import PriorError
from torch import Tensor

try:
    import pmt
    from gnuradio.unmix.blocks.separator import separator_cc
except ImportError:  # no GNU Radio: no control messages
    pmt = None

CORPUS = Path(__file__).resolve().parent / "corpus"
LONGEST_SENTENCE = 2000
#: Bytes that opening and reading a small capture may take; what the header claims may be gigabytes.
MOST_MEMORY = 8 << 20

sys.dont_write_bytecode = True  # a late import would write a file
_folder = tempfile.TemporaryDirectory()
FOLDER = Path(_folder.name)
SAMPLES = bytes(range(64))


# ------------------------------------------------------------------------------------------------- what must hold

_watch = threading.local()
FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.remove", "os.rename", "os.mkdir", "os.rmdir",
             "os.truncate", "os.chmod", "socket.connect", "shutil.rmtree")


def _audit(event, arguments):
    seen = getattr(_watch, "seen", None)
    if seen is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) or set(str(mode or "")) & set("wax+"):
            seen.append(f"opened {path!r} for writing")
    elif event in FORBIDDEN:
        seen.append(f"{event} {arguments!r}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def harmless(memory=MOST_MEMORY):
    """Nothing is written, started or unpickled in here, and Python and numpy allocate no more than this.

    memory: bytes; None does not count them, which scripting a module is slow under.
    """
    _watch.seen, peak = [], 0
    if memory is not None:
        tracemalloc.start()
    try:
        yield
    finally:
        if memory is not None:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        seen, _watch.seen = _watch.seen, None
    assert not seen, seen
    assert memory is None or peak <= memory, f"{peak} bytes were allocated"


def is_sentence(text, name=None):
    """One line that any terminal can show, of bearable length, that names the input."""
    assert text and text == text.strip() and text.isprintable(), repr(text)
    assert len(text) <= LONGEST_SENTENCE, f"{len(text)} characters: {text[:200]}"
    assert name is None or name in text, f"{name!r} is not in {text!r}"


def opens_or_refuses(path, memory=MOST_MEMORY, **options):
    """Open and read a capture; the samples, or None where it was refused."""
    with harmless(memory):
        try:
            capture = captures.open_capture(path, **options)
            check_capture(capture)
            samples = capture.read(0, capture.length)
        except CaptureError as error:
            named = "sample_rate" not in options and path.stem.isprintable() and len(str(path)) < 1000
            is_sentence(str(error), path.stem if named else None)
            assert str(error).endswith("."), str(error)
            return None
    assert samples.dtype == np.complex64 and samples.shape == (capture.length,), (samples.shape, capture.length)
    assert np.isfinite(samples).all()
    return samples


def check_capture(capture):
    """What a Capture says is usable, and does not promise more than the file has."""
    assert isinstance(capture.length, int) and capture.length >= 1
    assert capture.length * capture.sample_format.sample_bytes <= capture.path.stat().st_size
    rate, frequency = capture.sample_rate, capture.center_frequency
    assert rate is None or (isinstance(rate, float) and np.isfinite(rate) and rate > 0), rate
    assert frequency is None or (isinstance(frequency, float) and np.isfinite(frequency)), frequency
    assert capture.format_reason.isprintable()
    first = [first for first, _ in capture.segments]
    assert first[0] == 0 and first == sorted(set(first))
    repr(capture)


def text_of(data):
    """Any text, lone surrogates included, from any bytes."""
    return data.decode("utf-8", "surrogateescape")


def store(name, data):
    path = FOLDER / name
    path.write_bytes(data)
    return path


# ----------------------------------------------------------------------------------------------------- captures

def raw(data):
    """A file of bare samples; the first byte chooses how they are read."""
    kind = KINDS[data[0] % len(KINDS)] if data else "cf32"
    order = "_be" if data and data[0] & 128 else "_le"
    opens_or_refuses(store(f"seed.{kind}", data[1:]))
    opens_or_refuses(FOLDER / f"seed.{kind}", format=kind + (order if int(kind[2:]) > 8 else ""))


def wav(data):
    """A WAV file."""
    path = store("seed.wav", data)
    opens_or_refuses(path)
    opens_or_refuses(path, format="wav", sample_rate=1e6)


def sigmf(data):
    """SigMF metadata beside 64 bytes of data."""
    store("seed.sigmf-data", SAMPLES)
    opens_or_refuses(store("seed.sigmf-meta", data), memory=MOST_MEMORY + 80 * len(data))


def names(data):
    """A file's name, with whatever rate and frequency it tells; and rates and formats as people type them."""
    text = text_of(data)
    program, rate, frequency = parse_file_name(text)
    assert program in (None, "gqrx")
    for value in (rate, frequency):
        assert value is None or (isinstance(value, float) and np.isfinite(value) and value >= 0), value
    assert rate is None or rate > 0
    for convert in (captures.parse_rate, parse_format):
        try:
            got = convert(text)
            assert 0 < got < float("inf") if convert is captures.parse_rate else got[0] in KINDS
        except CaptureError as error:
            is_sentence(str(error))
    name = text.replace("/", "_").replace("\0", "_")
    path = FOLDER / "names" / name
    path.parent.mkdir(exist_ok=True)
    opens_or_refuses(path)  # most do not exist
    if name not in ("", ".", "..") and len(os.fsencode(name) if name.isascii() else name.encode(
            "utf-8", "surrogateescape")) < 250:
        path.write_bytes(SAMPLES)
        opens_or_refuses(path)
        opens_or_refuses(path, format="cf32")
        path.unlink()
    opens_or_refuses(Path(text) if "/" not in text else FOLDER / text.lstrip("/").replace("..", "_"))


def rate(value):
    """A sample rate as a number of any kind."""
    path = store("seed.cu8", SAMPLES)
    opens_or_refuses(path, sample_rate=value)


def bits(data):
    """A file of bits."""
    path = store("bits.u8", data)
    with harmless():
        try:
            got = read_bits(str(path))
        except ValueError as error:
            is_sentence(str(error), "bits.u8")
            return
    assert got == list(data) and set(got) <= {0, 1}


# ------------------------------------------------------------------------------------------------------- priors

def spec(data, memory=None):
    """A prior specification; the Prior, or None where it was refused."""
    with harmless(memory):
        try:
            prior = priors.parse(text_of(data) if isinstance(data, bytes) else data)
        except PriorError as error:
            is_sentence(str(error))
            return None
    check_prior(prior)
    return prior


def check_prior(prior):
    is_sentence(priors.describe(prior))
    assert 0 <= prior.window <= 10**8 and isinstance(prior.learned, bool)
    band = prior.band
    assert band is None or -1 <= band[0] < band[1] <= 1, band
    for bins in (256, 37):
        try:
            psd = prior.psd(bins)
        except PriorError as error:
            is_sentence(str(error))
        else:
            assert psd.shape == (bins,) and np.isfinite(psd).all() and psd.min() >= 0
            assert abs(psd.mean() - 1) < 1e-6, psd.mean()


class Same(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return x


def archive(module=None, metadata=None):
    """Contents of a TorchScript file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Same() if module is None else module)
        torch.jit.save(scripted, buffer, _extra_files={} if metadata is None else {"prior.json": metadata})
    return buffer.getvalue()


INFO = {"format": 1, "name": "seed", "kind": "test", "window": 64, "predicts": "signal", "side": ["start"],
        "synchronised": False, "synchronise": True, "frame": 80, "band": [-0.25, 0.25], "psd": [1.0, 2.0, 0.5],
        "alpha_bar": [0.01, 0.99], "invariances": ["phase"], "training": "none", "licence": "none", "version": "1",
        "modulation": {"constellation": "qpsk", "samples_per_symbol": 16, "rolloff": 0.5, "span": 8, "first": 8}}
PRIOR = archive(metadata=json.dumps(INFO))


def rebuilt(replace, compress=zipfile.ZIP_STORED, source=PRIOR):
    """A prior file with some of its entries replaced, and sound checksums: {name without folder: contents}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(buffer, "w", compress) as new:
        for entry in old.namelist():
            new.writestr(entry, replace.get(entry.partition("/")[2], old.read(entry)))
    return buffer.getvalue()


def prior_file(data):
    """A prior file; the Prior, or None where it was refused."""
    path = store("seed.pt", data)
    with harmless(16 * len(data) + (64 << 20)), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            prior = priors.load(str(path))
        except PriorError as error:
            is_sentence(str(error), "seed.pt")
            return None
    check_prior(prior)
    return prior


def prior_part(data):
    """An otherwise sound prior file, of which the part that the first byte chooses is replaced by the rest.

    What torch makes of hostile code is torch's: a prior file is a program. It must not take the process down here.
    """
    with zipfile.ZipFile(io.BytesIO(PRIOR)) as whole:
        parts = [name.partition("/")[2] for name in whole.namelist()]
    prior_file(rebuilt({parts[data[0] % len(parts)]: data[1:]} if data else {}))


def prior_json(data):
    """prior.json in an otherwise sound prior file."""
    return prior_file(rebuilt({"extra/prior.json": data}))


# ----------------------------------------------------------------------------------------------- control messages

def control(message):
    """A PMT (or its serialised bytes) at the separator's message port: settings stay usable, nothing is raised."""
    if isinstance(message, bytes):
        try:
            message = pmt.deserialize_str(message)
        except Exception:  # noqa: BLE001 (GNU Radio's business)
            return None
    said = []
    block = types.SimpleNamespace(
        _wanted={"sir_db": -9.0, "method": "auto", "steps": None, "averaging": 256.0}, _fixed=None,
        _lock=threading.Lock(), logger=types.SimpleNamespace(warn=said.append),
        _check_averaging=separator_cc._check_averaging)
    block._changes = types.MethodType(separator_cc._changes, block)
    block._set = types.MethodType(separator_cc._set, block)
    before = dict(block._wanted)
    with harmless():
        separator_cc._control(block, message)
    assert not said or block._wanted == before  # dropped whole
    wanted = block._wanted
    separator_cc._set(block, **wanted)  # raises for what is not allowed
    assert wanted["steps"] is None or type(wanted["steps"]) is int
    for text in said:
        assert len(text) <= LONGEST_SENTENCE, text[:300]
    return said


# -------------------------------------------------------------------------------------------------------- seeds

def riff(chunks, order="<", form=b"WAVE", size=None):
    """A RIFF file of (id, contents, claimed size or None)."""
    body = b"".join(name + struct.pack(order + "I", len(data) if claim is None else claim) + data
                    + b"\0" * (len(data) % 2) for name, data, claim in chunks)
    magic = b"RIFF" if order == "<" else b"RIFX"
    return magic + struct.pack(order + "I", len(body) + 4 if size is None else size) + form + body


def wav_format(tag=1, channels=2, rate=48000, bits=16, order="<", align=None, speed=None, more=b""):
    align = channels * bits // 8 if align is None else align
    speed = rate * align if speed is None else speed
    return struct.pack(order + "HHIIHH", tag & 0xffff, channels & 0xffff, rate & 0xffffffff, speed & 0xffffffff,
                       align & 0xffff, bits & 0xffff) + more


META = {"global": {"core:datatype": "ci16_le", "core:version": "1.2.0", "core:sample_rate": 1e6,
                   "core:description": "seed", "core:offset": 0, "core:num_channels": 1, "core:trailing_bytes": 4,
                   "core:dataset": "seed.sigmf-data",
                   "core:extensions": [{"name": "antenna", "version": "1.0.0", "optional": True}]},
        "captures": [{"core:sample_start": 0, "core:frequency": 1e8, "core:header_bytes": 4},
                     {"core:sample_start": 7, "core:frequency": 2e8, "core:datetime": "2024-01-01T00:00:00Z"}],
        "annotations": [{"core:sample_start": 1, "core:sample_count": 3, "core:comment": "a"}]}

SPECS = ("rrc:qpsk,sps=4,rolloff=0.25,span=6,first=1.5,ends=isolated,sync=unknown", "cp-ofdm:bpsk,fft=16,cp=4,active=8",
         "gaussian:seed.cu8", "rrc-qpsk", "some/prior.pt")
NAMES = ("gqrx_20230101_120000_433920000_1800000_fc.raw", "x-f4.339200e+08-s1.800000e+06-t2023.cfile",
         "g001_433.92M_250k.cu8", "SDRSharp_20150804_204707Z_145900000Hz_IQ.wav", "2.4 Msps", "ci16_be")
TARGETS = {"raw": raw, "wav": wav, "sigmf": sigmf, "names": names, "bits": bits, "spec": spec,
           "prior_file": prior_file, "prior_json": prior_json, "prior_part": prior_part,
           "control": control}


def seeds(target):
    """Valid inputs to begin from, and what once failed."""
    own = {"raw": [b"\0" + SAMPLES],
           "wav": [riff([(b"fmt ", wav_format(), None), (b"data", SAMPLES, None)]),
                   riff([(b"fmt ", wav_format(3, bits=32), None), (b"data", SAMPLES, None)]),
                   riff([(b"aux ", b"1", None), (b"fmt ", wav_format(order=">"), None), (b"data", SAMPLES, 4)], ">")],
           "sigmf": [json.dumps(META).encode()], "names": [n.encode() for n in NAMES],
           "bits": [b"\0\1\1"], "spec": [s.encode() for s in SPECS], "prior_file": [PRIOR],
           "prior_json": [json.dumps(INFO).encode()], "prior_part": [], "control": []}[target]
    if target == "prior_part":
        with zipfile.ZipFile(io.BytesIO(PRIOR)) as whole:
            own = [bytes([i]) + whole.read(name) for i, name in enumerate(whole.namelist())]
    if target == "control" and pmt is not None:
        message = pmt.dict_add(pmt.make_dict(), pmt.intern("sir_db"), pmt.from_double(-3))
        own = [pmt.serialize_str(m) for m in (pmt.dict_add(message, pmt.intern("steps"), pmt.from_long(7)),
                                              pmt.cons(pmt.intern("method"), pmt.intern("pnp-dr")))]
    return own + [file.read_bytes() for file in sorted((CORPUS / target).glob("*"))]
