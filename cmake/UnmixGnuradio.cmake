# SPDX-License-Identifier: GPL-3.0-or-later
# GNU Radio is needed by the blocks and by the tests that compare with it, not by the engine or the command line.
execute_process(
  COMMAND ${PYTHON_EXECUTABLE} -c "from gnuradio import gr; print(gr.version())"
  OUTPUT_VARIABLE gnuradio_version RESULT_VARIABLE gnuradio_missing ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(gnuradio_missing)
  set(UNMIX_GNURADIO_SUMMARY "left out: ${PYTHON_EXECUTABLE} cannot import gnuradio.gr")
else()
  set(UNMIX_GNURADIO_SUMMARY "${gnuradio_version}")
endif()
