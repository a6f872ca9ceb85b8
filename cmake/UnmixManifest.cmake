# SPDX-License-Identifier: GPL-3.0-or-later
# Installation writes lib/gr-unmix/manifest.txt: every file, and (with a slash at the end) every folder that was not there
# before, relative to the prefix. cmake/uninstall.sh removes what it names.
set(UNMIX_MANIFEST lib/gr-unmix/manifest.txt)

# Goes before the first install rule: notes which of the shared folders belong to others.
function(unmix_manifest_begin)
  set(shared "")
  foreach(path bin/. ${CMAKE_INSTALL_LIBDIR}/. lib/. ${UNMIX_PYTHON_DIR} include/gnuradio/unmix ${UNMIX_BLOCKS_DIR}/.
      ${UNMIX_EXAMPLES_DIR} share/doc/gr-unmix)
    get_filename_component(path "${path}" DIRECTORY)
    while(path)
      list(APPEND shared "${path}")
      get_filename_component(path "${path}" DIRECTORY)
    endwhile()
  endforeach()
  install(CODE "set(unmix_shared \"${shared}\")\nset(unmix_manifest \"${UNMIX_MANIFEST}\")")
  install(CODE [[
    cmake_policy(SET CMP0057 NEW) # IN_LIST; install scripts know no minimum version
    set(unmix_root "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}")
    set(unmix_earlier "")
    if(EXISTS "${unmix_root}/${unmix_manifest}")
      file(STRINGS "${unmix_root}/${unmix_manifest}" unmix_earlier)
    endif()
    set(unmix_foreign "")
    foreach(folder IN LISTS unmix_shared)
      if(IS_DIRECTORY "${unmix_root}/${folder}" AND NOT "${folder}/" IN_LIST unmix_earlier)
        list(APPEND unmix_foreign "${folder}")
      endif()
    endforeach()]])
endfunction()

# Goes after the last install rule: writes the list.
function(unmix_manifest_end)
  install(CODE [[
    set(unmix_paths "${unmix_manifest}")
    foreach(file IN LISTS CMAKE_INSTALL_MANIFEST_FILES)
      file(RELATIVE_PATH file "${CMAKE_INSTALL_PREFIX}" "${file}")
      list(APPEND unmix_paths "${file}")
    endforeach()
    set(unmix_folders "")
    foreach(path IN LISTS unmix_paths)
      get_filename_component(path "${path}" DIRECTORY)
      while(path)
        if(NOT path IN_LIST unmix_foreign)
          list(APPEND unmix_folders "${path}/")
        endif()
        get_filename_component(path "${path}" DIRECTORY)
      endwhile()
    endforeach()
    list(APPEND unmix_paths ${unmix_earlier} ${unmix_folders})
    list(REMOVE_DUPLICATES unmix_paths)
    list(SORT unmix_paths)
    list(JOIN unmix_paths "\n" unmix_paths)
    file(WRITE "${unmix_root}/${unmix_manifest}" "${unmix_paths}\n")]])
endfunction()
