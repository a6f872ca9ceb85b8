// SPDX-License-Identifier: GPL-3.0-or-later
//
// Counter-based random numbers, the same on the CPU and in CUDA kernels: (seed, window, step, source, place) decides
// each of them, whatever the batch or the device. Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC'11. Normals by Box-Muller with polynomials that compilers vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define UNMIX_HD __host__ __device__ inline
#else
#define UNMIX_HD inline __attribute__((always_inline))
#endif

namespace gr::unmix::random {

struct block {
    std::uint32_t v[4];
};

UNMIX_HD block philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3, std::uint64_t seed)
{
    std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{ 0xD2511F53u } * c0;
        const std::uint64_t b = std::uint64_t{ 0xCD9E8D57u } * c2;
        c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
        c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
        c1 = static_cast<std::uint32_t>(b);
        c3 = static_cast<std::uint32_t>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return { { c0, c1, c2, c3 } };
}

//! The counter of a window's random numbers; place numbers the blocks of four values within a step of one source.
UNMIX_HD block
draw(std::uint64_t seed, std::uint64_t window, std::uint32_t step, std::uint32_t source, std::uint32_t place)
{
    const std::uint32_t high = static_cast<std::uint32_t>(window >> 32);
    return philox(place ^ (source << 28), step, static_cast<std::uint32_t>(window), high, seed);
}

//! ln(u) for normal, positive u: polynomial of the Cephes library.
UNMIX_HD float log_of(float u)
{
    std::uint32_t bits;
    std::memcpy(&bits, &u, 4);
    const std::uint32_t shifted = bits - 0x3f3504f3u; // mantissa from sqrt(1/2)
    const float e = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
    bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float m;
    std::memcpy(&m, &bits, 4);
    const float x = m - 1.0f, z = x * x;
    float y = 7.0376836292e-2f;
    y = y * x - 1.1514610310e-1f;
    y = y * x + 1.1676998740e-1f;
    y = y * x - 1.2420140846e-1f;
    y = y * x + 1.4249322787e-1f;
    y = y * x - 1.6668057665e-1f;
    y = y * x + 2.0000714765e-1f;
    y = y * x - 2.4999993993e-1f;
    y = y * x + 3.3333331174e-1f;
    return x + (x * z * y - 0.5f * z) + e * 0.6931471806f;
}

//! Two standard normals from two uniform 32-bit words.
UNMIX_HD void normals(std::uint32_t a, std::uint32_t b, float& first, float& second)
{
    const float u = (static_cast<float>(a >> 8) + 1.0f) * 5.9604644775e-8f; // (0, 1]
    const float square = -2.0f * log_of(u);
    const float radius = __builtin_sqrtf(square > 0.0f ? square : 0.0f);
    // angle = (quarter + f) pi / 2 with f in [-1/2, 1/2)
    const std::uint32_t quarter = b >> 30;
    const float f = static_cast<float>((b >> 6) & 0xffffffu) * 5.9604644775e-8f - 0.5f;
    const float t = f * 1.5707963268f, z = t * t;
    const float sine = t + t * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    const float cosine =
        1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const bool swap = quarter & 1u;
    const float s = swap ? cosine : sine, c = swap ? sine : cosine;
    first = radius * ((quarter == 1u || quarter == 2u) ? -c : c);
    second = radius * (quarter >= 2u ? -s : s);
}

//! A uniform integer in low .. high from one word.
UNMIX_HD int uniform_int(std::uint32_t word, int low, int high)
{
    return low + static_cast<int>((std::uint64_t{ word } * static_cast<std::uint64_t>(high - low + 1)) >> 32);
}

} // namespace gr::unmix::random
