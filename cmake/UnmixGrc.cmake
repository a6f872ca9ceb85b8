# SPDX-License-Identifier: GPL-3.0-or-later
# GNU Radio Companion: the blocks' descriptions, the example flowgraphs with the captures that they read, and GRC's programs.
# Debian's gnuradio-companion and grcc run with /usr/bin/python3, and so do the flowgraphs that they start. Where torch is in a
# virtual environment they must run with its Python: build/bin has such gnuradio-companion and grcc, and with UNMIX_GRC_TOOLS
# they are installed too.
option(UNMIX_GRC_TOOLS "Install gnuradio-companion and grcc that run with UNMIX_RUN_PYTHON" OFF)

install(DIRECTORY grc/ DESTINATION ${UNMIX_BLOCKS_DIR} FILES_MATCHING PATTERN "*.block.yml" PATTERN "*.tree.yml")
install(DIRECTORY apps/ DESTINATION ${UNMIX_EXAMPLES_DIR} FILES_MATCHING PATTERN "*.grc"
  PATTERN "samples" EXCLUDE PATTERN "__pycache__" EXCLUDE)
install(DIRECTORY apps/samples DESTINATION ${UNMIX_EXAMPLES_DIR})

foreach(tool gnuradio-companion grcc)
  set(UNMIX_GRC_PROGRAM ${UNMIX_GNURADIO_PREFIX}/bin/${tool})
  set(UNMIX_GRC_PYTHON ${PYTHON_EXECUTABLE})
  set(UNMIX_GRC_BLOCKS ${CMAKE_SOURCE_DIR}/grc)
  configure_file(cmake/grc_tool.in ${CMAKE_BINARY_DIR}/bin/${tool} @ONLY)
  if(UNMIX_GRC_TOOLS)
    set(UNMIX_GRC_PYTHON ${UNMIX_RUN_PYTHON})
    set(UNMIX_GRC_BLOCKS ${CMAKE_INSTALL_PREFIX}/${UNMIX_BLOCKS_DIR})
    configure_file(cmake/grc_tool.in ${CMAKE_BINARY_DIR}/bin_installed/${tool} @ONLY)
    install(PROGRAMS ${CMAKE_BINARY_DIR}/bin_installed/${tool} DESTINATION bin)
  endif()
endforeach()
