# SPDX-License-Identifier: GPL-3.0-or-later
"""`cmake --install` is complete, what it writes works without the build tree, and cmake/uninstall.sh removes it all."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("UNMIX_BUILD", ROOT / "build"))
CMAKE = os.environ.get("UNMIX_CMAKE", "cmake")
BLOCKS = any((BUILD / "test_modules/gnuradio/unmix").glob("unmix_gnuradio*.so"))  # left out without GNU Radio

USE = """
import json, pathlib
from gnuradio import unmix
shipped = pathlib.Path(unmix.priors.__file__).parent / "shipped"
for file in shipped.glob("*.pt"):
    unmix.priors.parse(file.stem)
mapped = {line.split()[-1] for line in pathlib.Path("/proc/self/maps").read_text().splitlines()}
print(json.dumps({"file": unmix.__file__, "priors": len(list(shipped.glob("*.pt"))),
                  "libraries": [file for file in mapped if "unmix" in pathlib.Path(file).name]}))
"""

BLOCK_LIST = """
import json
from gnuradio import gr, unmix
from gnuradio.grc.core.platform import Platform
platform = Platform(version=gr.version(), version_parts=("3", "10", "0"), prefs=gr.prefs())
platform.build_library()
unmix.separator_cc
print("LIST" + json.dumps([key for key in platform.blocks if key.startswith("unmix_")]))
"""


def paths(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def install(prefix):
    subprocess.run([CMAKE, "--install", BUILD, "--prefix", prefix], check=True, stdout=subprocess.DEVNULL)


def uninstall(prefix):
    return subprocess.run([ROOT / "cmake/uninstall.sh", prefix], check=True, capture_output=True, text=True).stdout


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.prefix = Path(scratch.name).resolve()
        install(cls.prefix)
        cls.package, = cls.prefix.glob("lib/python3*/*-packages/gnuradio/unmix")

    def run_python(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GRC_"))}
        environment |= {"PYTHONPATH": str(self.package.parent.parent), "PYTHONDONTWRITEBYTECODE": "1",
                        "GRC_BLOCKS_PATH": str(self.prefix / "share/gnuradio/grc/blocks")}
        done = subprocess.run([sys.executable, *arguments], env=environment, cwd=self.prefix,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check_copied(self, source, patterns, installed):
        files = {str(path.relative_to(source)) for pattern in patterns for path in source.glob(pattern)
                 if "bindings" not in path.parts}
        self.assertTrue(files)
        self.assertEqual(files - paths(installed), set())

    def test_files(self):
        self.check_copied(ROOT / "python/unmix", ["**/*.py", "**/*.pt", "**/shipped/*.md"], self.package)
        self.check_copied(ROOT / "include", ["**/*.h"], self.prefix / "include")
        self.assertEqual(len(list(self.package.glob("unmix_*.so"))), 1 + BLOCKS)
        self.assertTrue((self.prefix / "lib/libgnuradio-unmix.so").is_file())
        self.assertFalse([path for path in paths(self.prefix) if "__pycache__" in path or path.endswith(".cc")])
        manifest = (self.prefix / "lib/gr-unmix/manifest.txt").read_text().split()
        self.assertEqual({path.rstrip("/") for path in manifest}, paths(self.prefix))

    @unittest.skipUnless(BLOCKS, "built without GNU Radio")
    def test_companion_files(self):
        self.check_copied(ROOT / "grc", ["*.block.yml"], self.prefix / "share/gnuradio/grc/blocks")
        examples = self.prefix / "share/gnuradio/examples/unmix"
        self.check_copied(ROOT / "apps", ["*.grc", "samples/*"], examples)

    def test_package_and_priors(self):
        used = json.loads(self.run_python("-c", USE))
        self.assertEqual(Path(used["file"]), self.package / "__init__.py")
        self.assertEqual(used["priors"], len(list((ROOT / "python/unmix/priors/shipped").glob("*.pt"))))
        self.assertGreaterEqual(len(used["libraries"]), 2)  # the engine and its Python module
        for library in used["libraries"]:
            self.assertTrue(Path(library).is_relative_to(self.prefix), library)

    @unittest.skipUnless(BLOCKS, "built without GNU Radio")
    def test_companion_lists_the_blocks(self):
        listed = json.loads(self.run_python("-c", BLOCK_LIST).partition("LIST")[2])
        described = {path.name.removesuffix(".block.yml") for path in (ROOT / "grc").glob("*.block.yml")}
        self.assertEqual(set(listed), described)

    def test_program(self):
        program = self.prefix / "bin/separate_file.py"
        self.assertTrue(os.access(program, os.X_OK))
        python = program.read_text().splitlines()[0].removeprefix("#!")
        self.assertTrue(Path(python).is_absolute() and "env" not in Path(python).name, python)
        self.assertIn("separate_file.py", self.run_python(program, "--version"))


class Uninstalled(unittest.TestCase):
    def test_only_ours_goes(self):
        with tempfile.TemporaryDirectory() as scratch:
            prefix = Path(scratch).resolve()
            for folder in ("bin", "lib/python3.11/dist-packages/gnuradio/other", "share/gnuradio/grc/blocks"):
                (prefix / folder).mkdir(parents=True)
            (prefix / "share/gnuradio/grc/blocks/other.block.yml").write_text("id: other\n")
            before = paths(prefix)
            install(prefix)
            install(prefix)  # again: what belongs to others is still known
            package, = prefix.glob("lib/python3*/*-packages/gnuradio/unmix")
            (package / "__pycache__").mkdir()
            (package / "__pycache__/x.pyc").touch()
            (prefix / "lib/gr-unmix/site-packages/torch").mkdir(parents=True)  # as make install does
            self.assertIn("Removed", uninstall(prefix))
            self.assertEqual(paths(prefix), before)
            self.assertIn("Nothing to remove", uninstall(prefix))
            self.assertEqual(paths(prefix), before)

    def test_files_of_others_stay(self):
        with tempfile.TemporaryDirectory() as scratch:
            prefix = Path(scratch).resolve()
            install(prefix)
            mine = prefix / "share/mine.grc"
            mine.touch()
            self.assertIn(f"Kept {prefix}/share/", uninstall(prefix))
            self.assertEqual(paths(prefix), {"share", "share/mine.grc"})


if __name__ == "__main__":
    unittest.main()
