# SPDX-License-Identifier: GPL-3.0-or-later
# GNU Radio is needed by the blocks and by the tests that compare with it, not by the engine or the command line.
# Sets UNMIX_GNURADIO where the blocks can be built: GNU Radio's headers, and the same GNU Radio in Python.
# UNMIX_GNURADIO_PREFIX is where that one is installed.
set(UNMIX_GNURADIO OFF)
execute_process(
  COMMAND ${PYTHON_EXECUTABLE} -c "from gnuradio import gr; print(gr.version()); print(gr.prefix().rstrip('/'))"
  OUTPUT_VARIABLE gnuradio_facts RESULT_VARIABLE gnuradio_missing ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(gnuradio_missing)
  set(UNMIX_GNURADIO_SUMMARY "blocks left out: ${PYTHON_EXECUTABLE} cannot import gnuradio.gr")
else()
  string(REPLACE "\n" ";" gnuradio_facts "${gnuradio_facts}")
  list(GET gnuradio_facts 0 gnuradio_version)
  list(GET gnuradio_facts 1 UNMIX_GNURADIO_PREFIX)
  # GnuradioConfig.cmake would look for a Python of its own, and for the test framework of Boost.
  set(ENABLE_PYTHON OFF CACHE INTERNAL "for GnuradioConfig.cmake")
  set(ENABLE_TESTING OFF CACHE INTERNAL "for GnuradioConfig.cmake")
  find_package(Gnuradio 3.10 QUIET COMPONENTS runtime)
  if(Gnuradio_FOUND)
    set(UNMIX_GNURADIO ON)
    set(UNMIX_GNURADIO_SUMMARY "${gnuradio_version}")
  else()
    set(UNMIX_GNURADIO_SUMMARY "blocks left out: ${gnuradio_version} without its headers (gnuradio-dev)")
  endif()
endif()
