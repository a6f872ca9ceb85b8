# SPDX-License-Identifier: GPL-3.0-or-later
# make demo   sets everything up and separates the sample captures
# make test   sets everything up and runs every test
# make install [PREFIX=/usr/local], make uninstall [PREFIX=...]   see README.md
# make screenshots   takes the documentation's pictures of GNU Radio Companion
# Nothing is set up twice. They need Debian 12 and, to install packages, root or sudo.

SHELL := /bin/bash
PYTHON := $(CURDIR)/.venv/bin/python
BUILD := $(CURDIR)/build
RUN := source $(BUILD)/run_env.sh && cd $(CURDIR) &&
SAMPLES := apps/samples
PREFIX := /usr/local

.PHONY: demo test build install uninstall screenshots setup packages training-env lint clean

demo: build
	@$(RUN) python apps/make_samples.py --wifi $(SAMPLES)/wifi_excerpt.sigmf-meta --output $(BUILD)/demo
	@echo; echo "== QPSK, 18 dB below simulated OFDM =="
	@$(RUN) python apps/separate_file.py $(SAMPLES)/qpsk_under_ofdm.sigmf-meta \
	  --soi rrc:qpsk,sps=16,rolloff=0.5,span=8 --interference cp-ofdm:qpsk,fft=64,cp=16,active=56 \
	  --reference $(SAMPLES)/qpsk_under_ofdm_true_bits.u8 --output $(BUILD)/demo --plots
	@echo; echo "== QPSK 9 dB below recorded WiFi: timing, phase, frequency, packets, channel and levels are found in the capture =="
	@$(RUN) python apps/separate_file.py $(BUILD)/demo/qpsk_under_wifi.sigmf-meta \
	  --soi rrc:qpsk,sps=16,sync=auto --interference wifi: \
	  --reference $(BUILD)/demo/qpsk_under_wifi_true_bits.u8 --output $(BUILD)/demo --plots
	@echo; echo "Signals, bits, reports and pictures are in build/demo"

test: build training-env
	ctest --test-dir $(BUILD) --output-on-failure

build: setup
	@test -f $(BUILD)/Makefile || cmake -S . -B $(BUILD) -DPYTHON_EXECUTABLE=$(PYTHON)
	@cmake --build $(BUILD) --parallel $$(nproc)

install: build
	@cmake/install.sh $(PREFIX) $(BUILD) $(PYTHON)

uninstall:
	@cmake/uninstall.sh $(PREFIX)

# A screen, a window manager, and what takes the picture: nothing else needs them.
screenshots: build
	@cmake/install_packages.sh xvfb xauth openbox xdotool imagemagick
	@$(RUN) docs/screenshots.sh

setup: .venv/ready

# Debian's python3, which sees GNU Radio; another one may come first on the path.
.venv/ready: requirements.txt tests/requirements.txt | packages
	/usr/bin/python3 -m venv --system-site-packages .venv
	$(PYTHON) -m pip install --quiet --requirement requirements.txt --requirement tests/requirements.txt
	touch $@

packages:
	@cmake/install_packages.sh

# Sionna and GNU Radio want different numpy: training has an environment of its own.
training-env: .venv-training/ready

.venv-training/ready: training/requirements.txt | packages
	/usr/bin/python3 -m venv .venv-training
	.venv-training/bin/python -m pip install --quiet --requirement training/requirements.txt
	touch $@

lint: setup
	$(PYTHON) -m pip install --quiet ruff
	$(PYTHON) -m ruff check .

clean:
	rm -rf $(BUILD)
