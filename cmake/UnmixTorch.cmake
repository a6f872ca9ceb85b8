# SPDX-License-Identifier: GPL-3.0-or-later
# Finds the torch of PYTHON_EXECUTABLE: target torch, UNMIX_TORCH_VERSION, UNMIX_TORCH_LIB_DIR, UNMIX_TORCH_CUDA.
execute_process(
  COMMAND ${PYTHON_EXECUTABLE} -c
    "import torch, os; print(torch.utils.cmake_prefix_path); print(torch.__version__); print(os.path.join(os.path.dirname(torch.__file__), 'lib')); print(torch.version.cuda or '')"
  OUTPUT_VARIABLE torch_facts RESULT_VARIABLE torch_missing ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(torch_missing)
  message(FATAL_ERROR "${PYTHON_EXECUTABLE} has no torch; install it (pip install -r requirements.txt) "
    "or name another Python with -DPYTHON_EXECUTABLE=...")
endif()
string(REPLACE "\n" ";" torch_facts "${torch_facts};")
list(GET torch_facts 0 torch_prefix)
list(GET torch_facts 1 UNMIX_TORCH_VERSION)
list(GET torch_facts 2 UNMIX_TORCH_LIB_DIR)
list(GET torch_facts 3 UNMIX_TORCH_CUDA)
list(APPEND CMAKE_PREFIX_PATH ${torch_prefix})
find_package(Torch REQUIRED)
