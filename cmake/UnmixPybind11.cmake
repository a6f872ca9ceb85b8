# SPDX-License-Identifier: GPL-3.0-or-later
# pybind11 from the system, or the one that the Python environment carries as a package.
find_package(pybind11 2.10 CONFIG QUIET)
if(NOT pybind11_FOUND)
  execute_process(COMMAND ${PYTHON_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_DIR ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  find_package(pybind11 2.10 CONFIG REQUIRED)
endif()
