// SPDX-License-Identifier: GPL-3.0-or-later
#include <gnuradio/unmix/noise.h>

#include "kernels.h"

#include <stdexcept>
#include <vector>

namespace gr::unmix {

void window_noise(std::uint64_t seed,
                  const std::uint64_t* index,
                  std::size_t windows,
                  std::uint64_t step,
                  std::uint64_t source,
                  std::size_t samples,
                  std::complex<float>* out)
{
    if (source > 15 || step >> 32 != 0 || samples >> 29 != 0)
        throw std::invalid_argument("noise needs a source up to 15, a step below 2^32 and at most 2^29 samples");
    // Smoothing of nothing at abar = 0 is the noise alone.
    const kernel_shape one{ 1, 2 * samples, 1, 2 * samples };
    const std::vector<float> nothing(one.n);
    std::vector<float> planes(one.n);
    const float alpha_bar = 0;
    for (std::size_t w = 0; w < windows; ++w) {
        cpu::smooth(one, nothing.data(), &alpha_bar, seed, index + w, static_cast<std::uint32_t>(step),
                    static_cast<std::uint32_t>(source), planes.data());
        for (std::size_t i = 0; i < samples; ++i)
            out[w * samples + i] = { planes[i], planes[samples + i] };
    }
}

} // namespace gr::unmix
