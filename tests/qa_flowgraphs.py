# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio Companion: the blocks' descriptions say what the blocks do, and the example flowgraphs compile and run."""

import ast
import contextlib
import importlib.util
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = sorted(path.name.removesuffix(".block.yml") for path in (ROOT / "grc").glob("*.block.yml"))
FLOWGRAPHS = sorted(path.stem for path in (ROOT / "apps").glob("*.grc"))
LIMIT_S = 120  # a run needs 5 to 10 s on two idle cores

_folder = tempfile.TemporaryDirectory()
FOLDER = Path(_folder.name)  # compiled flowgraphs; also the home, whose cache and settings GRC would write
os.environ |= {"HOME": str(FOLDER), "GRC_BLOCKS_PATH": str(ROOT / "grc")}

try:
    from gnuradio import gr
    from gnuradio.grc.core import Messages
    from gnuradio.grc.core.platform import Platform
except ImportError as error:
    print(f"skipped: GNU Radio and its Companion are needed ({error})")
    sys.exit(77)
from gnuradio import unmix  # noqa: E402

#: GNU Radio's own blocks and these: blocks that were installed before (in /usr/local) would hide them.
os.environ["GR_CONF_GRC_GLOBAL_BLOCKS_PATH"] = str(Path(gr.prefix(), "share/gnuradio/grc/blocks"))

#: What grcc may say; every other line of its output, on either stream, is an error or a warning.
HARMLESS = [r"<<< Welcome to GNU Radio Companion Compiler .* >>>", r"Block paths:", r"\t/.*", r">>> Loading: .*\.grc",
            r">>> Generating: .*\.py", r"log :warning: Matplotlib is a required dependency to use DistanceRadar .*",
            # the headless ones end by themselves and are meant to run as fast as they can
            r">>> Warning: This flow graph may not have flow control: .*"]

#: Parameters without a useful default in Python; the description's is only an example.
NO_DEFAULT = {"bits", "word", "unique_word", "path"}

#: Settings that a block must refuse, in GRC by an assertion and in Python by a ValueError. Together they make every
#: assertion fail once.
REFUSED = {
    "unmix_separator_cc": [
        {"soi": ""}, {"interference1": ""}, {"interferers": "2", "interference2": ""},
        {"sir_mode": "fixed", "sir_db": "-100.1"}, {"sir_mode": "fixed", "sir_db": "100.1"}, {"method": "pnp"},
        {"steps": "0"}, {"steps": "10**9 + 1"}, {"steps": "5", "method": "matched-filter"}, {"window": "0"},
        {"window": "10**8 + 1"}, {"overlap": "-16"}, {"overlap": "2560"}, {"overlap": "512", "window": "512"},
        {"batch": "0"}, {"batch": "10**6 + 1"}, {"seed": "-1"}, {"seed": "1 << 63"},
        {"levels": "(1, 5, 0)", "sir_mode": "fixed"}, {"levels": "(1, 5)"}, {"levels": "(1, 5, 0)", "interferers": "2"},
        {"levels": "(0, 5, 0)"}, {"levels": "(1, 5, -1)"}, {"averaging": "0"}, {"averaging": "1.1e9"}],
    "unmix_rrc_qpsk_source": [
        {"bits": "[]"}, {"bits": "[0, 1, 1]"}, {"bits": "[0, 2]"}, {"sps": "1"}, {"rolloff": "-0.1"},
        {"rolloff": "1.1"}, {"span": "1"}],
    "unmix_cp_ofdm_source": [
        {"fft": "1", "cp": "0"}, {"cp": "-1"}, {"cp": "65"}, {"active": "0"}, {"active": "64"},
        {"start_mode": "fixed", "start": "80"}, {"start_mode": "fixed", "start": "-1"}, {"seed": "-1"}],
    "unmix_sir_mixer": [
        {"sir_db": "-101"}, {"sir_db": "101"}, {"noise": "on", "snr_db": "-101"}, {"noise": "on", "snr_db": "101"},
        {"interferers": "0"}, {"interferers": "5"}, {"seed": "-1"}],
    "unmix_capture_source": [{"path": ""}, {"path": "x.cf32", "format": ""}, {"path": "x.cf32", "sample_rate": "0"}],
    "unmix_qpsk_receiver": [
        {"sps": "1"}, {"rolloff": "0.09"}, {"rolloff": "1.1"}, {"span": "1"}, {"unique_word": "[0, 1] * 7"},
        {"unique_word": "unmix.random_bits(65)"}, {"unique_word": "[2] * 64"}, {"threshold": "0.5"}, {"threshold": "1"},
        {"timing_bandwidth": "0"}, {"timing_bandwidth": "0.21"}, {"carrier_bandwidth": "0"},
        {"carrier_bandwidth": "0.21"}],
    "unmix_unique_word_sync_cc": [
        {"word": "[0, 1] * 7"}, {"word": "unmix.random_bits(65)"}, {"word": "[2] * 64"}, {"threshold": "0.5"},
        {"threshold": "1"}],
    "unmix_ber_meter": [{"bits": "[]"}, {"bits": "[2]"}, {"window": "0"}, {"skip": "-1"}],
}

#: Settings at the edges of what is allowed, taken by GRC and by Python.
TAKEN = {
    "unmix_separator_cc": [
        {"sir_mode": "fixed", "sir_db": "-100"}, {"sir_mode": "fixed", "sir_db": "100"}, {"sir_db": "1000"},
        {"method": "matched-filter"}, {"steps": "1", "method": "alpha-rgs"}, {"window": "512", "overlap": "64"},
        {"overlap": "0"}, {"batch": "1", "seed": "7", "device": "cpu"}, {"levels": "(1, 5, 0)"}, {"averaging": "0.5"},
        {"interferers": "3", "levels": "(1, 2, 3, 4, 0)"}],
    "unmix_rrc_qpsk_source": [{"bits": "[0, 1]", "sps": "2", "span": "2", "rolloff": "0"}, {"rolloff": "1"},
                              {"differential": "True", "repeat": "False"}],
    "unmix_cp_ofdm_source": [{"cp": "0"}, {"cp": "64"}, {"active": "63"}, {"start_mode": "fixed", "start": "79"},
                             {"start": "1000"}, {"phase_mode": "fixed", "phase": "-7.5"}, {"constellation": "16qam"}],
    "unmix_sir_mixer": [{"sir_db": "-100"}, {"sir_db": "100"}, {"noise": "on", "snr_db": "-100"}, {"snr_db": "1000"},
                        {"interferers": "4"}],
    "unmix_capture_source": [{"path": str(ROOT / "apps/samples/qpsk_under_ofdm"), "sample_rate": "1e6"}],
    "unmix_qpsk_receiver": [{"sps": "2", "span": "2", "rolloff": "0.1"},
                            {"unique_word": "()", "phase_resolution": "none"},
                            {"phase_resolution": "differential", "threshold": "0"}, {"timing_bandwidth": "0.2"}],
    "unmix_unique_word_sync_cc": [{"threshold": "0.99"}],
    "unmix_ber_meter": [{"bits": "[1]", "window": "1", "skip": "5"}],
}

#: hide of each parameter where it depends on others: (parameter, settings, what it must be).
HIDDEN = {
    "unmix_separator_cc": [
        ("interference2", {"interferers": "1"}, "all"), ("interference2", {"interferers": "2"}, "none"),
        ("interference3", {"interferers": "2"}, "all"), ("interference3", {"interferers": "3"}, "none"),
        ("interference4", {"interferers": "3"}, "all"), ("interference4", {"interferers": "4"}, "none"),
        ("sir_db", {"sir_mode": "auto"}, "all"), ("sir_db", {"sir_mode": "fixed"}, "none"),
        ("steps", {"steps": "None"}, "part"), ("steps", {"steps": "20"}, "none"),
        ("window", {"window": "None"}, "part"), ("window", {"window": "512"}, "none"),
        ("overlap", {"overlap": "None"}, "part"), ("overlap", {"overlap": "64"}, "none"),
        ("levels", {"levels": "None"}, "part"), ("levels", {"levels": "(1, 5, 0)"}, "none")],
    "unmix_cp_ofdm_source": [
        ("start", {"start_mode": "random"}, "all"), ("start", {"start_mode": "fixed"}, "none"),
        ("phase", {"phase_mode": "random"}, "all"), ("phase", {"phase_mode": "fixed"}, "none")],
    "unmix_sir_mixer": [("snr_db", {"noise": "off"}, "all"), ("snr_db", {"noise": "on"}, "none")],
    "unmix_capture_source": [("sample_rate", {"sample_rate": "None"}, "part"),
                             ("sample_rate", {"sample_rate": "1e6"}, "none")],
    "unmix_qpsk_receiver": [
        ("unique_word", {"phase_resolution": "unique-word"}, "none"),
        ("unique_word", {"phase_resolution": "none"}, "all"),
        ("threshold", {"phase_resolution": "unique-word"}, "part"),
        ("threshold", {"phase_resolution": "differential"}, "all")],
    "unmix_ber_meter": [("skip", {"skip": "0"}, "part"), ("skip", {"skip": "100"}, "none")],
}


class Records(logging.Handler):
    """Keeps what GRC's loader says."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def setUpModule():  # noqa: N802 - unittest's name
    global platform, loader, compiler
    # grcc itself, run by this Python, in the background while the descriptions are loaded here
    run = "from gnuradio.grc.compiler import main; main()"
    files = [str(ROOT / f"apps/{name}.grc") for name in FLOWGRAPHS]
    compiler = subprocess.Popen([sys.executable, "-B", "-c", run, "-o", str(FOLDER), *files], cwd=FOLDER,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    loader = Records()
    log = logging.getLogger("gnuradio.grc")
    log.addHandler(loader)
    platform = Platform(name="test", prefs=gr.prefs(), version=gr.version(),
                        version_parts=(gr.major_version(), gr.api_version(), gr.minor_version()))
    platform.build_library()
    log.removeHandler(loader)
    Messages.flowgraph_error = None
    compiler.output = compiler.communicate(timeout=LIMIT_S)[0]


def tearDownModule():  # noqa: N802 - unittest's name
    _folder.cleanup()


def description(key):
    return yaml.safe_load((ROOT / f"grc/{key}.block.yml").read_text())


def block(key, settings=()):
    """The block with these settings in a flowgraph of its own."""
    graph = platform.make_flow_graph()
    made = graph.new_block(key)
    for name, value in dict(settings).items():
        made.params[name].set_value(value)
    graph.rewrite()
    made.validate()
    made.graph = graph  # keeps it alive
    return made


def failed(made):
    """The assertions that fail, and everything else that is wrong apart from a missing name and missing connections."""
    asserts, others = [], []
    for text in made.get_error_messages():
        match = re.match(r'Assertion "(.*)" (failed|did not evaluate)\.$', text, re.DOTALL)
        if match:
            asserts.append(match[1])
        elif "is not connected" not in text and not text.startswith("Param - ID(id)"):
            others.append(text)
    return asserts, others


def make(made):
    """The Python object that the generated code would make."""
    return eval(made.templates.render("make"), {"unmix": unmix})  # noqa: S307 - our own template


class Descriptions(unittest.TestCase):
    def test_loader_says_nothing(self):
        self.assertEqual([line for line in loader.lines if "unmix" in line], [])
        self.assertEqual([key for key in BLOCKS if key not in platform.blocks], [])
        self.assertEqual({tuple(platform.blocks[key].category) for key in BLOCKS}, {("Unmix",)})

    def test_every_block_has_one(self):
        helpers = {"random_bits", "read_bits"}
        self.assertEqual(BLOCKS, sorted(f"unmix_{name}" for name in unmix.blocks.NAMES if name not in helpers))

    def test_documentation(self):
        for key in BLOCKS:
            with self.subTest(key):
                text = platform.blocks[key].documentation[""]
                for heading in ("Input:", "Output:", "Latency:", "Parameters:"):
                    self.assertRegex(text, rf"(?m)^{heading}")
                for parameter in description(key)["parameters"]:
                    label = parameter["label"].rstrip(" 1234")
                    self.assertIn(label, text.partition("Parameters:")[2])
                for side, unnamed in (("inputs", "in"), ("outputs", "out")):
                    for port in description(key).get(side, []):
                        name = port.get("label") or port.get("id") or unnamed
                        self.assertRegex(text, rf"(?m)^{name}\b.*: ")

    def test_make_passes_every_parameter_with_python_s_default(self):
        for key in BLOCKS:
            with self.subTest(key):
                made = block(key)
                asserts, others = failed(made)
                self.assertEqual(others, [])
                self.assertEqual(asserts, ["len(path) > 0"] if key == "unmix_capture_source" else [])
                call = ast.parse(made.templates.render("make")).body[0].value
                name = key.removeprefix("unmix_")
                self.assertEqual(ast.unparse(call.func), f"unmix.{name}")
                self.assertEqual(call.args, [])
                passed = {word.arg: eval(ast.unparse(word.value), {"unmix": unmix})  # noqa: S307
                          for word in call.keywords}
                wanted = dict(inspect.signature(getattr(unmix, name).__init__).parameters)
                del wanted["self"]
                self.assertEqual(list(passed), list(wanted))
                for word, parameter in wanted.items():
                    if word not in NO_DEFAULT:
                        self.assertEqual(passed[word], parameter.default, word)

    def test_every_setting_reaches_python(self):
        separator = block("unmix_separator_cc", {
            "soi": "rrc:bpsk", "interferers": "3", "interference3": "wifi", "sir_mode": "fixed", "sir_db": "-7",
            "method": "alpha-rgs", "steps": "9", "window": "512", "overlap": "64", "batch": "2", "device": "cpu",
            "seed": "3", "averaging": "17"})
        call = ast.parse(separator.templates.render("make")).body[0].value
        passed = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        self.assertEqual(passed, {
            "soi": "rrc:bpsk", "interference": ["cp-ofdm:qpsk,fft=64,cp=16,active=56",
                                                "cp-ofdm:bpsk,fft=64,cp=16,active=56", "wifi"],
            "sir_db": -7, "method": "alpha-rgs", "steps": 9, "window": 512, "overlap": 64, "batch": 2, "device": "cpu",
            "seed": 3, "levels": None, "averaging": 17})

    def test_callbacks_exist(self):
        for key in BLOCKS:
            made = getattr(unmix, key.removeprefix("unmix_"))
            for callback in description(key)["templates"].get("callbacks", []):
                with self.subTest(key, callback=callback):
                    self.assertTrue(callable(getattr(made, callback.partition("(")[0])))

    def test_presets_are_priors(self):
        for parameter in description("unmix_separator_cc")["parameters"]:
            if parameter["id"] == "soi" or parameter["id"].startswith("interference"):
                # two stand for the user's own files
                for spec in set(parameter["options"]) - {"gaussian:interference.sigmf-meta", "interference.pt"}:
                    with self.subTest(spec):
                        unmix.priors.parse(spec)

    def test_asserts(self):
        for key in BLOCKS:
            seen = set()
            for settings in REFUSED[key]:
                with self.subTest(key, **settings):
                    made = block(key, settings)
                    asserts, others = failed(made)
                    self.assertEqual(others, [])
                    self.assertNotEqual(asserts, [])
                    self.assertFalse(made.is_valid())
                    if "path" not in settings:  # there is no such file: that is what Python would refuse
                        with self.assertRaises(ValueError):
                            make(made)
                    seen |= set(asserts)
            self.assertEqual(seen, {text[2:-1].strip() for text in description(key)["asserts"]}, key)

    def test_allowed(self):
        for key in BLOCKS:
            for settings in TAKEN[key]:
                with self.subTest(key, **settings):
                    made = block(key, settings)
                    self.assertEqual(failed(made), ([], []))
                    make(made)

    def test_hiding(self):
        for key in BLOCKS:
            conditional = {p["id"] for p in description(key)["parameters"] if "$" in p.get("hide", "")}
            self.assertEqual({name for name, _, _ in HIDDEN.get(key, [])}, conditional, key)
            for name, settings, wanted in HIDDEN.get(key, []):
                with self.subTest(key, name=name, **settings):
                    self.assertEqual(block(key, settings).params[name].hide, wanted)

    def test_ports(self):
        for count in "1234":
            separator = block("unmix_separator_cc", {"interferers": count})
            self.assertEqual([port.dtype for port in separator.active_sources],
                             ["complex"] * (1 + int(count)) + ["message"])
            self.assertTrue(separator.active_sources[-1].optional)
            self.assertEqual([port.name for port in separator.active_sinks], ["in", "control"])
            self.assertTrue(separator.active_sinks[1].optional)
            self.assertEqual(len(block("unmix_sir_mixer", {"interferers": count}).active_sinks), 1 + int(count))


class Compiled(unittest.TestCase):
    def test_grcc(self):
        lines = [line for line in compiler.output.splitlines() if line.strip()]
        self.assertEqual([line for line in lines if not any(re.fullmatch(allowed, line) for allowed in HARMLESS)], [])
        self.assertEqual(compiler.returncode, 0)
        for name in FLOWGRAPHS:
            compile((FOLDER / f"{name}.py").read_text(), name, "exec")

    def test_files(self):
        self.assertEqual(FLOWGRAPHS, ["sdr_file_source", "sdr_file_source_headless", "simulated_mixture",
                                      "simulated_mixture_headless"])
        for name in FLOWGRAPHS:
            with self.subTest(name):
                text = (ROOT / f"apps/{name}.grc").read_text()
                self.assertNotRegex(text, r"[\s'\"]/(home|work|usr|tmp|root)/")
                notes = [made for made in yaml.safe_load(text)["blocks"] if made["id"] == "note"]
                self.assertTrue(any(note["parameters"]["comment"] for note in notes))


def start(name, *arguments):
    """A compiled flowgraph without displays, in a folder that has no samples."""
    return subprocess.Popen([sys.executable, "-B", FOLDER / f"{name}.py", *arguments], cwd=FOLDER,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Headless(unittest.TestCase):
    def result(self, process):
        """(errors, bits) after separation, of a run that must end well."""
        output, complaints = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 0, output + complaints)
        self.assertIn("BER before separation: 5.00e-01 (no alignment found)", output)
        match = re.search(r"BER after separation: \S+ \((\d+) errors in (\d+) bits\)", output)
        self.assertIsNotNone(match, output)
        return int(match[1]), int(match[2])

    def test_bit_error_rates(self):
        simulated = start("simulated_mixture_headless", "--sir-db", "-15", "--samples", "1M")
        recorded = start("sdr_file_source_headless")
        errors, bits = self.result(simulated)
        self.assertGreater(bits, 120_000)  # of 125,000: few are spent on settling
        self.assertLessEqual(errors, 1e-3 * bits)
        errors, bits = self.result(recorded)
        self.assertGreater(bits, 95_000)  # of 100,000
        self.assertLessEqual(errors, 3e-4 * bits)  # measured: 3e-5, where the recording starts anew

    def test_missing_recording(self):
        process = start("sdr_file_source_headless", "--capture", "nothing.sigmf-meta")
        _, complaints = process.communicate(timeout=LIMIT_S)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("nothing.sigmf-meta", complaints.splitlines()[-1])


#: Runs a compiled flowgraph with displays and tells of its BER meter; "matched" on the way when the bound was met.
WATCH = """
import importlib, sys
from PyQt5 import Qt
sys.path.insert(0, {folder!r})
module = importlib.import_module({name!r})

class Watched(getattr(module, {name!r})):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.clock = Qt.QTimer()
        self.clock.timeout.connect(self.look)
        self.clock.start(100)
        self.met = False

    def look(self):
        meter = self.ber_after
        if not self.met and meter.locked() and meter.compared() >= 20000 and meter.ber() <= {bound}:
            self.met = True
            agreement = self.get_separator_report()["agreement"]
            print("met", meter.ber(), agreement, self.ber_before.locked(), flush=True)
            self.set_method("matched-filter")
        elif self.met and meter.ber() > 0.05:
            print("worse", flush=True)
            self.clock.stop()

sys.argv = [{name!r}]
module.main(Watched)
"""


@unittest.skipUnless(importlib.util.find_spec("PyQt5"), "PyQt5 is needed")
class Displays(unittest.TestCase):
    """The flowgraphs with displays: the bit error rate falls below the bound, and rises with the matched filter."""

    BOUNDS = {"simulated_mixture": 1e-3, "sdr_file_source": 1e-3}

    def test_running(self):
        began = time.monotonic()
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(FOLDER)}
        running = {name: subprocess.Popen(
            [sys.executable, "-B", "-c", WATCH.format(folder=str(FOLDER), name=name, bound=bound)], cwd=FOLDER,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for name, bound in self.BOUNDS.items()}
        for process in running.values():
            self.addCleanup(self.end, process)
        for name, process in running.items():
            with self.subTest(name):
                lines = self.until(process, "worse", began + LIMIT_S)
                met = next((line.split() for line in lines if line.startswith("met")), None)
                self.assertIsNotNone(met, lines)
                # agreement, as displayed: of the last window, 0.94 for one in which the recording starts anew
                self.assertGreater(float(met[2]), 0.8)
                self.assertEqual(met[3], "False")  # the receiver before the separator finds nothing
                self.assertEqual(lines[-1], "worse")
                process.send_signal(signal.SIGTERM)
                _, complaints = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 0, complaints)
                self.assertNotIn("Traceback", complaints)

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
            process.communicate()

    @staticmethod
    def until(process, word, deadline):
        """Lines of output up to the one that begins with a word, or until the deadline."""
        said = b""
        os.set_blocking(process.stdout.fileno(), False)
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(BlockingIOError):  # nothing there
                said += os.read(process.stdout.fileno(), 4096)
            if said.endswith(b"\n") and said.splitlines()[-1].startswith(word.encode()):
                break
            time.sleep(0.05)
        return said.decode().splitlines()


if __name__ == "__main__":
    unittest.main()
