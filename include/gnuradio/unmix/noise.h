// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/api.h>

#include <complex>
#include <cstddef>
#include <cstdint>

namespace gr::unmix {

/*!
 * \brief The noise z ~ N(0, 1) per real channel (complex variance 2) that separators inject, window by window.
 *
 * (seed, index[w], step, source) decides each window's noise, whatever the batch or the device. out: [windows, samples].
 * Throws std::invalid_argument for a source or step that the counter has no room for (source <= 15, step < 2^32), and
 * for more than 2^29 samples.
 */
UNMIX_API void window_noise(std::uint64_t seed,
                            const std::uint64_t* index,
                            std::size_t windows,
                            std::uint64_t step,
                            std::uint64_t source,
                            std::size_t samples,
                            std::complex<float>* out);

} // namespace gr::unmix
