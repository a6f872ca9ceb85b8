// SPDX-License-Identifier: GPL-3.0-or-later
//
// Picks the CPU or the CUDA version of a kernel by where a tensor lies.
#pragma once

#include "kernels.h"

#ifdef UNMIX_CUDA
#define UNMIX_DISPATCH(tensor, kernel) ((tensor).is_cuda() ? &::gr::unmix::cuda::kernel : &::gr::unmix::cpu::kernel)
#else
#define UNMIX_DISPATCH(tensor, kernel) (&::gr::unmix::cpu::kernel)
#endif
