// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#if defined(gnuradio_unmix_EXPORTS)
#define UNMIX_API __attribute__((visibility("default")))
#else
#define UNMIX_API
#endif
