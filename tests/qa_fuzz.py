#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever comes in, the readers use it or refuse it with one sentence: fuzz_targets.py says what is promised.

The examples are the same in every run. fuzz_atheris.py looks for new ones as long as you like.
"""

import copy
import io
import json
import math
import pickle
import struct
import time
import unittest
import zipfile
from pathlib import Path

import fuzz_targets as targets
import numpy as np
import torch
from gnuradio.unmix import captures, priors
from gnuradio.unmix.captures import CaptureError
from gnuradio.unmix.captures.formats import make_format, parse_format
from gnuradio.unmix.priors import constellation as cons
from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import strategies as st
from torch import Tensor

configuration.set_hypothesis_home_dir(targets.FOLDER / "hypothesis")  # it keeps tables of Unicode; not in the source

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=100,
                          phases=(Phase.explicit, Phase.generate, Phase.shrink),
                          suppress_health_check=list(HealthCheck))
settings.load_profile("same")

NUMBERS = st.one_of(st.integers(-10, 100), st.sampled_from([2**31, 2**32 - 1, 2**63, 2**64, 10**400, -1, 0]),
                    st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 5e-324, -0.0]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
JSON = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)), max_leaves=6)


def places(document, path=()):
    """Where a JSON document holds values: the paths to all of them."""
    inside = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(
        document, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated_json(draw, seed):
    """The seed as JSON with one to three of its values replaced, removed or doubled, or its text cut."""
    document = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(document))))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        change = draw(st.sampled_from(["replace", "replace", "number", "remove", "add"]))
        if change == "remove":
            del inner[path[-1]]
            if not document:
                break
        elif change == "add" and isinstance(inner, list):
            inner.append(draw(st.one_of(JSON, st.just(copy.deepcopy(inner[path[-1]])))))
        else:
            inner[path[-1]] = draw(NUMBERS if change == "number" else JSON)
    text = json.dumps(document).encode(errors="surrogatepass")
    return text[:draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@st.composite
def flipped(draw, seed):
    """The seed with some of its bytes changed, and now and then cut or continued."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    cut = draw(st.integers(0, 3))
    return bytes(data[:draw(st.integers(0, len(data)))]) if cut == 0 else bytes(data)


class Corpus(unittest.TestCase):
    def test_seeds_and_what_once_failed(self):
        for name, target in targets.TARGETS.items():
            for seed in targets.seeds(name) if name != "control" or targets.pmt else ():
                with self.subTest(name, seed=seed[:60]):
                    target(seed)

    def test_the_corpus_is_small(self):
        files = [file for file in targets.CORPUS.rglob("*") if file.is_file()]
        self.assertLess(sum(file.stat().st_size for file in files), 20_000)
        self.assertLessEqual({file.parent.name for file in files}, set(targets.TARGETS))


class Captures(unittest.TestCase):
    @given(st.binary(max_size=200))
    def test_raw_bytes(self, data):
        targets.raw(data)

    @given(st.lists(st.floats(width=64), min_size=1, max_size=8).map(lambda v: struct.pack(f"<{len(v)}d", *v)),
           st.integers(0, 255))
    def test_raw_floats(self, data, choice):
        targets.raw(bytes([choice]) + data)

    @given(st.one_of(st.binary(max_size=64), *map(flipped, targets.seeds("wav"))))
    @settings(max_examples=200)
    def test_wav_bytes(self, data):
        targets.wav(data)

    @given(st.data())
    @settings(max_examples=150)
    def test_wav_chunks(self, data):
        order = data.draw(st.sampled_from("<>"))
        claim = st.one_of(st.none(), st.none(), st.sampled_from([0, 1, 63, 65, 2**31, 2**32 - 1]))
        small = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 24, 32, 64, 0xffff])
        tail = st.sampled_from([b"", b"\0\0", b"\x16\0\x10\0\0\0\0\0" + b"\1\0" + targets.captures.wav.TAILS["<"]])
        fmt = st.builds(targets.wav_format, tag=st.sampled_from([1, 3, 0xfffe, 0, 7]), channels=small, bits=small,
                        rate=st.sampled_from([0, 1, 48000, 2**32 - 1]), align=st.one_of(st.none(), small),
                        order=st.just(order), more=tail)
        good = st.just(targets.wav_format(order=order))
        chunk = st.one_of(
            st.tuples(st.just(b"fmt "), st.one_of(good, fmt), claim),
            st.tuples(st.just(b"data"), st.binary(max_size=70), claim),
            st.tuples(st.sampled_from([b"LIST", b"auxi", b"fact", b"\xff\0\n "]), st.binary(max_size=9), claim))
        chunks = data.draw(st.lists(chunk, max_size=4))
        if data.draw(st.booleans()):
            chunks = [(b"fmt ", data.draw(st.one_of(good, fmt)), None), *chunks, (b"data", targets.SAMPLES, None)]
        targets.wav(targets.riff(chunks, order, size=data.draw(claim)))

    def test_a_valid_wav_file_is_read_as_it_was_written(self):
        for order in "<>":
            stored = np.arange(16, dtype=f"{order}i2")
            for fmt in (targets.wav_format(order=order),
                        targets.wav_format(0xfffe, order=order, more=struct.pack(order + "HHII", 22, 16, 3, 1)
                                           + targets.captures.wav.TAILS[order])):
                path = targets.store("seed.wav", targets.riff([
                    (b"odd ", b"1", None), (b"fmt ", fmt, None), (b"data", stored.tobytes(), None)], order))
                got = targets.opens_or_refuses(path)
                np.testing.assert_array_equal(got.view(np.float32) * 32768, stored)

    def test_a_wav_file_of_nothing_but_chunks_is_given_up_soon(self):
        begin = time.monotonic()
        targets.wav(targets.riff([(b"JUNK", b"", None)] * 100_000))
        self.assertLess(time.monotonic() - begin, 2)

    @given(st.binary(max_size=100))
    def test_metadata_bytes(self, data):
        targets.sigmf(data)

    @given(mutated_json(targets.META))
    @settings(max_examples=150)
    def test_metadata_that_were_valid(self, data):
        targets.sigmf(data)

    def test_metadata_nested_deeper_than_python_follows(self):
        for depth in (10, 300, 400, 500, 700, 900, 980, 10**5):
            inner = "[" * depth + "]" * depth
            targets.sigmf(json.dumps(targets.META).replace('"seed"', inner, 1).encode())
            targets.sigmf(json.dumps(targets.META).replace('"a"', inner, 1).encode())
            targets.sigmf(inner.encode())

    def test_metadata_with_texts_of_a_million_characters(self):
        for field in ("core:datatype", "core:dataset", "core:sha512", "core:version", "core:num_channels"):
            document = copy.deepcopy(targets.META)
            document["global"][field] = "\x1b[31m\n" * 150_000
            targets.sigmf(json.dumps(document).encode())

    def test_metadata_larger_than_any_recorder_writes_are_refused_unread(self):
        targets.store("seed.sigmf-data", targets.SAMPLES)
        path = targets.store("seed.sigmf-meta", b"")
        with open(path, "r+b") as file:
            file.truncate(300 << 20)
        self.assertIsNone(targets.opens_or_refuses(path))

    @given(st.one_of(st.text(max_size=40), *(flipped(n.encode()).map(targets.text_of) for n in targets.NAMES)))
    @settings(max_examples=250)
    def test_names(self, text):
        targets.names(text.encode("utf-8", "surrogateescape") if text.isprintable() else text.encode(
            "utf-8", "surrogatepass"))

    @given(st.floats(1, 1e12), st.floats(1, 1e12))
    def test_rates_and_frequencies_survive_a_file_name(self, rate, frequency):
        told = captures.names.parse_file_name(f"x-f{frequency!r}-s{rate!r}-t1.cfile")
        self.assertEqual(told, (None, rate, frequency))
        self.assertEqual(captures.parse_rate(f" {rate!r} Hz"), rate)

    def test_rates_in_a_sea_of_spaces_are_refused_at_once(self):
        begin = time.monotonic()
        with self.assertRaises(CaptureError):
            captures.parse_rate("1" + " " * 20_000 + "x")
        self.assertLess(time.monotonic() - begin, 1)

    @given(st.one_of(NUMBERS, st.text(max_size=6), st.none(), st.complex_numbers(), st.lists(NUMBERS, max_size=2)))
    def test_rates_of_any_kind(self, value):
        targets.rate(value)

    @given(st.from_regex(r"[a-z]{1,3}[0-9]{1,2}(_le|_be)?", fullmatch=True))
    def test_formats(self, text):
        try:
            kind, order = parse_format(text)
        except CaptureError as error:
            targets.is_sentence(str(error), text)
        else:
            self.assertIn(make_format(kind, order or "<").component.itemsize, (1, 2, 4, 8))

    @given(st.one_of(st.binary(max_size=50), st.lists(st.sampled_from([0, 1]), max_size=50).map(bytes)))
    def test_bits(self, data):
        targets.bits(data)


ODD = st.sampled_from(["nan", "inf", "-inf", "1e400", "-1", "0", "1000000", str(1 << 30), "9" * 5000, "1e-320", "٣", "",
                       "0x10", "1_6", " 8", "auto", "\n", "8=8"])
PARAMETERS = st.dictionaries(st.sampled_from(["sps", "rolloff", "span", "first", "ends", "sync", "fft", "cp", "active",
                                              ""]), ODD, min_size=1, max_size=3)
ODD_SPECS = st.builds(lambda kind, name, values: ",".join([kind + name, *(f"{k}={v}" for k, v in values.items())]),
                      st.sampled_from(["rrc:", "cp-ofdm:", "wifi:"]),
                      st.sampled_from([*cons.NAMES, "auto", "", "QPSK"]), PARAMETERS)


class Specifications(unittest.TestCase):
    @given(st.one_of(st.text(max_size=40), st.text(max_size=20).map("gaussian:".__add__), st.text(
        max_size=20).map("some/".__add__), *(flipped(s.encode()).map(targets.text_of) for s in targets.SPECS[2:])))
    @settings(max_examples=200)
    def test_any_text(self, text):
        targets.spec(text)

    @given(ODD_SPECS)
    @settings(max_examples=150)
    def test_impossible_numbers(self, text):
        targets.spec(text, memory=64 << 20)

    def test_names_that_the_system_refuses(self):
        for text in ("x" * 5000, "a/" * 3000, "a\0b", "\ud800.pt", "gaussian:" + "x" * 5000, "rrc:qpsk," + " " * 10**6,
                     "rrc:qpsk,sps=" + "0" * 1000 + "8", "", ".", "..", "/", "/dev/zero", "/proc/self/mem"):
            self.assertIsNone(targets.spec(text, memory=16 << 20), text[:20])

    def test_huge_numbers_are_refused_before_memory_is_taken(self):
        begin = time.monotonic()
        for text in ("rrc:qpsk,sps=1000000", "rrc:qpsk,span=1000000", "rrc:qpsk,sps=999999,span=999999",
                     "rrc:qpsk,sync=auto,sps=1e9", "rrc:qpsk,sync=auto,span=999999", "cp-ofdm:qpsk,fft=1073741824",
                     "cp-ofdm:qpsk,fft=999999", "cp-ofdm:qpsk,cp=999999", "cp-ofdm:qpsk,active=999999"):
            with targets.harmless(1 << 20), self.assertRaises(priors.PriorError, msg=text):
                priors.parse(text)
        self.assertLess(time.monotonic() - begin, 5)

    @given(st.sampled_from(cons.NAMES), st.integers(2, 40), st.floats(0, 1), st.integers(2, 12), st.data())
    @settings(max_examples=12)
    def test_a_modulation_gets_what_was_written(self, name, sps, rolloff, span, data):
        first = data.draw(st.floats(0, sps, exclude_max=True))
        ends = data.draw(st.sampled_from(["stream", "isolated"]))
        sync = data.draw(st.sampled_from(["known", "unknown"]))
        values = {"sps": sps, "rolloff": repr(rolloff), "span": span, "first": repr(first), "ends": ends, "sync": sync}
        text = ",".join([f"rrc:{name}", *(f"{k}={values[k]}" for k in data.draw(st.permutations(sorted(values))))])
        prior = targets.spec(text)
        self.assertIsNotNone(prior, text)
        self.assertEqual(prior.modulation, {"constellation": name, "samples_per_symbol": sps, "rolloff": rolloff,
                                            "span": span, "first": first})
        self.assertEqual((prior.module.tails, prior.module.synchronised, prior.name),
                         (span // 2 if ends == "stream" else 0, sync == "known", text))

    @given(st.sampled_from(cons.NAMES), st.integers(2, 40), st.data())
    @settings(max_examples=4)
    def test_ofdm_gets_what_was_written(self, name, fft, data):
        cp, active = data.draw(st.integers(0, fft)), data.draw(st.integers(1, fft - 1))
        prior = targets.spec(f"cp-ofdm:{name},cp={cp},active={active},fft={fft}")
        self.assertIsNotNone(prior)
        module = prior.module
        self.assertEqual((module.constellation, module.fft, module.cp, module.active), (name, fft, cp, active))

    @given(st.lists(st.integers(0, 255), min_size=0, max_size=600).map(bytes))
    @settings(max_examples=30)
    def test_spectra_of_any_recording(self, data):
        path = targets.store("seed.cu8", data)
        prior = targets.spec(f"gaussian:{path}")
        self.assertTrue(prior is None or prior.name == "gaussian:seed.cu8")

    def test_a_recording_whose_name_is_no_text(self):
        path = targets.store("a\n\x1b[31m.cu8", bytes(range(256)))
        self.assertIsNotNone(targets.spec(f"gaussian:{path}"))


class NoForward(torch.nn.Module):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return x


class TwoArguments(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        return x


class FourArguments(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor, more: Tensor) -> Tensor:
        return x


class WrongArgument(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: float, side: Tensor) -> Tensor:
        return x


class TwoAnswers(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor):
        return x, alpha_bar


class Trap:
    """Touches a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (targets.FOLDER / "sprung",)


class PriorFiles(unittest.TestCase):
    @given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(b"PK\x03\x04".__add__)))
    def test_any_bytes(self, data):
        targets.prior_file(data)

    def test_truncated(self):
        size = len(targets.PRIOR)
        for end in (*range(0, 64, 7), *range(64, size, size // 40), size - 1):
            self.assertIsNone(targets.prior_file(targets.PRIOR[:end]), end)

    @given(flipped(targets.PRIOR))
    @settings(max_examples=200)
    def test_flipped(self, data):
        targets.prior_file(data)

    def test_a_changed_byte_that_still_makes_sense_does_not_pass(self):
        whole = targets.PRIOR
        place = whole.index(b'"kind"')
        self.assertIsNone(targets.prior_file(whole[:place + 2] + b"X" + whole[place + 3:]))

    @given(st.one_of(*map(flipped, targets.seeds("prior_part"))))
    @settings(max_examples=60)
    def test_parts_with_sound_checksums(self, data):
        targets.prior_part(data)

    @given(mutated_json(targets.INFO))
    @settings(max_examples=300)
    def test_metadata_that_were_valid(self, data):
        targets.prior_json(data)

    @given(st.one_of(st.binary(max_size=60), JSON.map(lambda v: json.dumps(v).encode())))
    def test_any_metadata(self, data):
        targets.prior_json(data)

    def test_hostile_metadata(self):
        refused = [b"[" * 10**5, b'{"a":' * 10**5, b'{"format": ' + b"9" * 5000 + b"}"]
        for change in ({"name": "a\nb"}, {"name": "\ud800"}, {"name": "a" * 10**6}, {"kind": "\x1b[31m"},
                       {"predicts": "\n" * 10**6}, {"window": 10**4000}, {"frame": 10**4000}, {"psd": [math.nan, 1]},
                       {"psd": [10**400]}, {"modulation": {"constellation": ["qpsk"]}}):
            refused.append(json.dumps({**targets.INFO, **change}).encode())
        for data in refused:
            self.assertIsNone(targets.prior_json(data), data[:40])
        for psd in ([0] * 1001 + [1] + [0] * 22, [5e-324] + [0] * 10, [1e99] * 10, [1e99, 1e-300, 0]):
            self.assertIsNotNone(targets.prior_json(json.dumps({**targets.INFO, "psd": psd}).encode()))

    def test_bombs(self):
        for size in (8 << 20, 400 << 20):
            for entry in ("extra/prior.json", "code/__torch__/fuzz_targets.py"):
                data = self.deflated(entry, size)
                self.assertLess(len(data), 1 << 20)
                begin = time.monotonic()
                self.assertIsNone(targets.prior_file(data))
                self.assertLess(time.monotonic() - begin, 5)

    @staticmethod
    def deflated(entry, size):
        """The prior with one entry that unpacks to `size` spaces."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(targets.PRIOR)) as old, zipfile.ZipFile(
                buffer, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                if name.partition("/")[2] != entry:
                    new.writestr(name, old.read(name))
            with new.open(name.partition("/")[0] + "/" + entry, "w") as file:
                for _ in range(size >> 20):
                    file.write(b" " * (1 << 20))
        return buffer.getvalue()

    def test_modules_of_another_kind(self):
        for module in (NoForward, TwoArguments, FourArguments, WrongArgument, TwoAnswers):
            self.assertIsNone(targets.prior_file(targets.archive(module(), json.dumps(targets.INFO))), module)

    def test_python_pickles_are_not_opened(self):
        buffer = io.BytesIO()
        torch.save({"weights": Trap()}, buffer)
        for data in (buffer.getvalue(), pickle.dumps(Trap()),
                     targets.rebuilt({"data.pkl": pickle.dumps(Trap())}),
                     targets.rebuilt({"constants.pkl": pickle.dumps(Trap(), 2)})):
            self.assertIsNone(targets.prior_file(data))
        self.assertFalse((targets.FOLDER / "sprung").exists())

    def test_files_that_are_no_files(self):
        for path in (targets.FOLDER, "/dev/zero", "a\0b.pt", "x" * 5000):
            with targets.harmless(), self.assertRaises(priors.PriorError) as caught:
                priors.load(str(path))
            targets.is_sentence(str(caught.exception))

    def test_a_capture_of_gigabytes_named_by_mistake_is_not_read(self):
        path = targets.FOLDER / "x.cf32"
        for magic in (b"\0\0\0\0", b"PK\x03\x04"):
            with open(path, "wb") as file:
                file.write(magic)
                file.truncate(3 << 30)
            with targets.harmless(), self.assertRaises(priors.PriorError) as caught:
                priors.parse(str(path))
            targets.is_sentence(str(caught.exception), "x.cf32")
        path.unlink()


def messages():
    """PMTs of every kind, and near misses of what the separator takes."""
    pmt = targets.pmt
    keys = st.sampled_from(["sir_db", "steps", "method", "averaging", "other", ""]).map(pmt.intern)
    leaves = st.one_of(
        keys, st.just(pmt.PMT_NIL), st.just(pmt.PMT_EOF), st.booleans().map(pmt.from_bool),
        st.integers(-2**40, 2**40).map(pmt.from_long), st.floats().map(pmt.from_double),
        st.integers(0, 2**64 - 1).map(pmt.from_uint64), st.complex_numbers().map(pmt.from_complex),
        st.sampled_from(["auto", "pnp-dr", "alpha-rgs", "matched-filter", "nan"]).map(pmt.intern),
        st.lists(st.floats(), max_size=3).map(lambda v: pmt.init_f64vector(len(v), v)),
        st.binary(max_size=3).map(lambda v: pmt.init_u8vector(len(v), list(v))))
    anything = st.recursive(leaves, lambda inner: st.one_of(
        st.builds(pmt.cons, inner, inner), inner.map(pmt.list1), inner.map(pmt.make_tuple)), max_leaves=6)
    near = st.lists(st.tuples(keys, leaves), max_size=4).map(dictionary)
    return st.one_of(anything, near, st.builds(pmt.cons, keys, leaves))


def dictionary(pairs):
    result = targets.pmt.make_dict()
    for key, value in pairs:
        result = targets.pmt.dict_add(result, key, value)
    return result


@unittest.skipUnless(targets.pmt, "needs GNU Radio")
class ControlMessages(unittest.TestCase):
    def test_any_message_changes_settings_or_is_dropped(self):
        @given(messages())
        @settings(max_examples=300)
        def check(message):
            targets.control(message)
        check()


if __name__ == "__main__":
    unittest.main()
