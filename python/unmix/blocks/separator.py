# SPDX-License-Identifier: GPL-3.0-or-later
"""The separator as a block: a complex stream in, every signal in it out, sample for sample."""

import threading
import time
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import pmt
from gnuradio import gr

from .. import priors
from ..estimators import Levels, LevelTracker
from ..recording import DEFAULT_INTERFERENCE, DEFAULT_SOI
from ..separators import CancelFlag, resolve_method, takes_steps
from ..settings import check_settings, choose_device
from ..stream import StreamSeparator, Stretch, WindowReport
from ..unmix_gnuradio import input_done, items_available, output_done, read_done, stop_requested
from ..wording import one_line

CONTROL = pmt.intern("control")
REPORT = pmt.intern("report")
MOST_BUFFERED = 1 << 22  # items of an output buffer


class separator_cc(gr.basic_block):
    """Takes the signals in a complex stream apart. Output n belongs to input n; tags keep their offsets.

    Outputs: the SOI, then one stream per interference, in the input's units. The block holds back `latency` samples,
    a batch of windows: window + (batch - 1) (window - overlap) + 1. When the input ends, everything comes out.

    soi, interference: prior specifications (priors.HELP); interference: one, or a list of up to 8.
    sir_db: the SOI's power over that of all interference, dB, -100 .. 100; None estimates it from the stream's
    spectrum. method: auto, pnp-dr, alpha-rgs or matched-filter. steps: largest number of calls of each prior; None for
    the method's own. window, overlap: samples; None: 2560, or what a prior was made for, and about a tenth of it.
    batch: windows that are separated at a time. device: auto, cpu or cuda. seed: of random numbers.
    levels: None to estimate the signals' amplitudes from the stream, averaged over about the last `averaging` windows
    or since the power last changed by more than 1.5 dB from one batch to the next. Where the SOI pauses (but under
    priors that explain anything, Gaussian and learned ones), its level is that of the bursts; it is held while the SOI
    pauses, for up to about 20 times as long, and an SOI that becomes 8 dB weaker from one moment to the next is taken
    for one that pauses until then. Known SIRs are those of the bursts. Or K amplitudes, SOI first, in the
    stream's units, and the white noise's power (sir_db must be None then).

    The same stream and settings give the same output, however GNU Radio cuts the stream. A window with samples that
    are NaN, infinite or beyond 1e18, in which the spectrum shows nothing of one of the signals, or whose levels the
    method refuses (unet; the log says why), passes through as the SOI, with zeros for the interference; `unseparated`
    counts such windows. Where the SOI pauses it is zero, and the first interference is the rest.

    Message port report: a dictionary per window: window, start (its first kept sample), samples, sir_db, agreement
    (0 .. 1), disagreement, steps, seconds, method, outcome, absent (samples in which the SOI pauses), separated (bool),
    unseparated (so far). Outcomes: see stream.WindowReport; "no_soi" where the SOI pauses in the whole window.
    Message port control: a dictionary, or a pair, with sir_db, steps (numbers, or the symbol auto), averaging (number)
    and method (symbol); what is malformed is dropped whole, with a warning. Messages and set_*, which may be called
    from any thread, take effect with the next batch.

    Raises ValueError with one sentence for arguments that are impossible, PriorError for priors.
    """

    def __init__(self, soi: str = DEFAULT_SOI, interference: Union[str, Sequence[str]] = DEFAULT_INTERFERENCE,
                 sir_db: Optional[float] = None, method: str = "auto", steps: Optional[int] = None,
                 window: Optional[int] = None, overlap: Optional[int] = None, batch: int = 16, device: str = "auto",
                 seed: int = 0, levels: Optional[Sequence[float]] = None, averaging: float = 64):
        check_settings(method, steps, window, batch, seed, sir_db, device, overlap)
        specs = [interference] if isinstance(interference, str) else list(interference)
        wrong = [spec for spec in (soi, *specs) if not isinstance(spec, str)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no prior; a specification or the name of a file is needed")
        if not 1 <= len(specs) <= 8:
            raise ValueError(f"{len(specs)} interferences are impossible; 1 to 8 are allowed")
        known = [priors.parse(spec) for spec in (soi, *specs)]
        self._check_averaging(averaging)
        fixed = None if levels is None else self._fixed_levels(levels, len(known), sir_db)
        chosen = choose_device(device)
        gr.basic_block.__init__(self, "separator_cc", in_sig=[np.complex64], out_sig=[np.complex64] * len(known))
        self._lock = threading.Lock()  # guards _wanted: set_* are called from other threads
        self._wanted = {"sir_db": sir_db, "method": method, "steps": steps, "averaging": averaging}
        self._priors, self._fixed = known, fixed
        self._options = {"window": window, "overlap": overlap, "seed": seed, "device": chosen, "batch": batch}
        self._begin()
        self._started = False
        #: What made the block give up in its last run, or None.
        self.error: Optional[Exception] = None
        self.message_port_register_in(CONTROL)
        self.set_msg_handler(CONTROL, self._control)
        self.message_port_register_out(REPORT)
        plan = self._stream.plan
        self.set_min_output_buffer(min(2 * batch * plan.hop, MOST_BUFFERED))  # separate on while others read
        self.logger.info(f"{self._stream.method} on {chosen}, windows of {plan.window} samples, overlap {plan.overlap}")
        for prior in known:
            self.logger.info(priors.describe(prior))

    # ------------------------------------------------------------------------------------------ what can be changed

    @property
    def latency(self) -> int:
        """Samples that go in before the first come out."""
        return self._stream.latency

    @property
    def unseparated(self) -> int:
        """Windows that passed through as they were since the flowgraph was started."""
        return self._unseparated

    def set_sir_db(self, sir_db: Optional[float]) -> None:
        """SIR (dB), or None to estimate it, from the next batch on. Raises ValueError, also where levels are fixed."""
        if self._fixed is not None:
            raise ValueError("the levels are fixed, so the SIR cannot be set; leave levels out of the constructor")
        self._set(sir_db=sir_db)

    def set_method(self, method: str) -> None:
        """Method by name from the next batch on; the matched filter leaves steps alone. Raises ValueError."""
        self._set(method=method)

    def set_steps(self, steps: Optional[int]) -> None:
        """Largest number of calls of each prior from the next batch on, None: the method's own. Raises ValueError."""
        self._set(steps=steps)

    def set_averaging(self, averaging: float) -> None:
        """Windows over which levels are averaged, > 0, from the next batch on. Raises ValueError."""
        self._set(averaging=float(averaging))

    def _set(self, **changes) -> None:
        with self._lock:
            wanted = self._wanted | changes
            check_settings(steps=wanted["steps"], sir_db=wanted["sir_db"])
            check_settings(wanted["method"])  # the matched filter takes no steps; they are kept for the next method
            self._check_averaging(wanted["averaging"])
            self._wanted = wanted

    @staticmethod
    def _check_averaging(averaging: float) -> None:
        if not isinstance(averaging, (int, float)) or not 0 < averaging <= 1e9:
            raise ValueError(f"averaging {averaging} is impossible; it must be above 0 and at most 1e9 windows")

    @staticmethod
    def _fixed_levels(levels: Sequence[float], signals: int, sir_db: Optional[float]) -> Levels:
        if sir_db is not None:
            raise ValueError("levels fix the SIR: sir_db must be None beside them")
        try:
            values = np.asarray(levels, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != (signals + 1,) or not np.isfinite(values).all() or (values[:-1] <= 0).any() \
                or values[-1] < 0:
            raise ValueError(f"levels {levels} are impossible; {signals} amplitudes above 0 and the noise's "
                             "power, 0 or more, are needed")
        return Levels(values[:-1], float(values[-1]))

    # ------------------------------------------------------------------------------------------------------- messages

    def _control(self, message) -> None:
        try:
            self._set(**self._changes(message))
        except Exception as error:  # noqa: BLE001 (what escapes ends the block's thread)
            self.logger.warn(f"control message dropped: {one_line(str(error) or 'it is no proper list')}")

    def _changes(self, message) -> dict:
        """Settings in a message. Raises ValueError with a sentence for anything else."""
        if pmt.is_pair(message) and pmt.is_symbol(pmt.car(message)):
            items = [message]
        elif pmt.is_dict(message):
            listed = pmt.dict_items(message)
            items = [pmt.nth(i, listed) for i in range(pmt.length(listed))]
        else:
            raise ValueError("it must be a dictionary or a pair of a symbol and a value")
        changes = {}
        for item in items:
            key, value = pmt.to_python(pmt.car(item)), pmt.to_python(pmt.cdr(item))
            if not isinstance(key, str) or key not in self._wanted:
                raise ValueError(f"{key!r} cannot be set; {', '.join(self._wanted)} can")
            if key == "sir_db" and self._fixed is not None:
                raise ValueError("the levels are fixed, so the SIR cannot be set")
            if key in ("sir_db", "steps") and isinstance(value, str) and value == "auto":
                value = None
            elif key == "method":
                if not isinstance(value, str):
                    raise ValueError("method must be a symbol")
            elif not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"{key} must be a number, not {value!r}")
            elif key == "steps":
                if value != int(value):
                    raise ValueError("steps must be a whole number")
                value = int(value)
            changes[key] = value
        if not changes:
            raise ValueError("it sets nothing")
        return changes

    def _publish(self, reports: Sequence[WindowReport]) -> None:
        for r in reports:
            self._unseparated += not r.separated
            values = {"window": r.number, "start": r.start, "samples": r.length, "sir_db": r.sir_db,
                      "agreement": r.agreement, "disagreement": r.disagreement, "steps": r.calls, "seconds": r.seconds,
                      "method": self._stream.method, "outcome": r.outcome, "absent": sum(n for _, n in r.absent),
                      "separated": r.separated, "unseparated": self._unseparated}
            message = pmt.make_dict()
            for key, value in values.items():
                message = pmt.dict_add(message, pmt.intern(key), pmt.to_pmt(value))
            self.message_port_pub(REPORT, message)
            if r.outcome != self._last_outcome and not r.separated:
                why = self._stream.levels.reason if r.outcome == "no_levels" else \
                    self._stream.refusal if r.outcome == "refused" else ""
                why = f" ({why})" if why else ""
                self.logger.warn(f"samples from {r.start} on pass through unseparated: {r.outcome}{why}")
            self._last_outcome = r.outcome

    # --------------------------------------------------------------------------------------------------------- stream

    def _begin(self) -> None:
        """The state at a stream's first sample."""
        wanted = self._wanted
        levels = LevelTracker(self._priors, wanted["sir_db"]) if self._fixed is None else self._fixed
        self._stream = StreamSeparator(self._priors, levels, wanted["method"], wanted["steps"], **self._options)
        self._ready = np.zeros((len(self._priors), 0), dtype=np.complex64)  # separated, not yet written
        self._consumed = 0
        self._pushed = 0  # consumed samples, and the one that is held back at the end
        self._finished = False
        self._unseparated = 0
        self._last_outcome = ""

    def _apply(self) -> None:
        """Take over what set_* and messages asked for."""
        with self._lock:
            wanted = self._wanted
        stream = self._stream
        stream.method = resolve_method(wanted["method"])
        stream.steps = wanted["steps"] if takes_steps(stream.method) else None
        if self._fixed is None:
            stream.levels.sir_db = wanted["sir_db"]
            stream.levels.memory = wanted["averaging"] * stream.plan.hop

    def forecast(self, noutput_items: int, ninputs: int) -> list[int]:
        # GNU Radio finishes a block that has consumed all its input, and calls one that needs nothing for ever. So one
        # sample stays unconsumed until the last window is written, and a second one must come unless the input ended.
        if self._ready.shape[1]:
            return [0] * ninputs
        return [1 if read_done(self.detail(), 0) else 2] * ninputs

    def start(self) -> bool:
        """Called by GNU Radio at each start and reconnection, from which on it counts items from 0 again."""
        self._started = False
        self.error = None
        self.set_max_output_buffer(-1)  # GNU Radio leaves this run's size as the next one's limit, and halves it
        return True

    def general_work(self, input_items, output_items) -> int:
        try:
            return self._work(input_items[0], output_items)
        except Exception as error:  # noqa: BLE001 (GNU Radio would log it and hang)
            self.error = error
            self.logger.error(one_line(f"separator_cc gives up: {type(error).__name__}: {error}"))
            return -1

    def _work(self, samples: np.ndarray, outputs: Sequence[np.ndarray]) -> int:
        if not self._started:
            self._begin()
            self._started = True
        if self._unread():
            return -1
        self._apply()
        detail = self.detail()
        consume = 0
        if not self._ready.shape[1] and not self._finished:
            last = input_done(detail, 0) and items_available(detail, 0) == len(samples)
            fresh = samples[self._pushed - self._consumed:]
            take = min(len(fresh) if last else max(0, len(fresh) - 1), self._stream.missing)
            stretch = self._separate(lambda meter: self._stream.push(fresh[:take], meter))
            self._pushed += take
            if last and take == len(fresh) and not self._stopping() and stretch is None:
                stretch = self._separate(self._stream.finish)
                self._finished = not self._stopping()
            if stretch is not None:
                self._ready = stretch.sources
                self._publish(stretch.reports)
            consume = self._pushed - self._consumed
        count = min(self._ready.shape[1], len(outputs[0]))
        for output, source in zip(outputs, self._ready, strict=True):
            output[:count] = source[:count]
        self._ready = self._ready[:, count:]
        if self._pushed == self.nitems_written(0) + count and self._finished:
            consume = self._pushed - self._consumed
        elif consume and self._pushed == self.nitems_read(0) + len(samples):
            consume -= 1  # the last one is held back
        self.consume(0, consume)
        self._consumed += consume
        if not count and not consume and not self._ready.shape[1]:
            time.sleep(1e-3)  # another reader of the input has finished, which makes GNU Radio call without end
        return count

    def _unread(self) -> bool:
        """Whether nobody reads any output any more."""
        detail = self.detail()
        return all(output_done(detail, i) for i in range(len(self._priors)))

    def _stopping(self) -> bool:
        """Whether tb.stop() waits for this block, or its results are not wanted any more."""
        return stop_requested() or self._unread()

    def _separate(self, work) -> Optional[Stretch]:
        """Run a part of the stream separator that stops within a step when the flowgraph does."""
        cancel = self._stream.cancel = CancelFlag()

        def meter(fraction: float, windows: int) -> bool:
            if self._stopping():
                cancel.set()
            return not cancel.is_set()
        return work(meter)
