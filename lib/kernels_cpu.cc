// SPDX-License-Identifier: GPL-3.0-or-later
#include "kernel_math.h"
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

// One binary for every x86-64 processor: the loader picks the widest version that it has.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define UNMIX_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define UNMIX_WIDE
#endif

namespace gr::unmix::cpu {
namespace {

//! 1 for NaN and infinity, else 0. By its bits: where sums may be reordered, compilers take 0 * x for 0, NaN or not.
UNMIX_HD std::uint32_t not_finite(float x)
{
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

constexpr float flag[2] = { 0.0f, std::numeric_limits<float>::quiet_NaN() };

} // namespace

UNMIX_WIDE void last_source(const kernel_shape& s, const float* y, const float* gains, float* x)
{
    const std::size_t last = s.sources - 1;
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float* g = gains + w * s.sources;
        const float scale = 1 / g[last];
        const float* from = x + w * s.n;
        float* to = x + last * s.stride + w * s.n;
        for (std::size_t i = 0; i < s.n; ++i)
            to[i] = scale * element::rest(y[w * s.n + i], from, g, s.stride, last, i);
    }
}

UNMIX_WIDE void smooth(const kernel_shape& s,
                       const float* x,
                       const float* alpha_bar,
                       std::uint64_t seed,
                       const std::uint64_t* index,
                       std::uint32_t step,
                       std::uint32_t source,
                       float* out)
{
    constexpr std::uint32_t lanes = 64; // blocks of four values worked on together
    const auto places = static_cast<std::uint32_t>(s.n / 4);
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float signal = std::sqrt(alpha_bar[w]), noise = std::sqrt(1 - alpha_bar[w]);
        const float* from = x + w * s.n;
        float* to = out + w * s.n;
        std::uint32_t place = 0;
        for (; place + lanes <= places; place += lanes) {
            float z[4][lanes];
            for (std::uint32_t l = 0; l < lanes; ++l) {
                const auto word = random::draw(seed, index[w], step, source, place + l);
                random::normals(word.v[0], word.v[1], z[0][l], z[1][l]);
                random::normals(word.v[2], word.v[3], z[2][l], z[3][l]);
            }
            for (std::uint32_t l = 0; l < lanes; ++l)
                for (int j = 0; j < 4; ++j)
                    to[4 * (place + l) + j] = signal * from[4 * (place + l) + j] + noise * z[j][l];
        }
        for (; 4 * std::size_t{ place } < s.n; ++place) {
            const auto word = random::draw(seed, index[w], step, source, place);
            float z[4];
            random::normals(word.v[0], word.v[1], z[0], z[1]);
            random::normals(word.v[2], word.v[3], z[2], z[3]);
            for (std::size_t j = 0, i = 4 * std::size_t{ place }; j < 4 && i < s.n; ++j, ++i)
                to[i] = signal * from[i] + noise * z[j];
        }
    }
}

UNMIX_WIDE void descend(const kernel_shape& s,
                        const float* mean,
                        const float* weights,
                        const float* gains,
                        float rate,
                        float* x,
                        float* finite)
{
    const std::size_t last = s.sources - 1;
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float* g = gains + w * s.sources;
        const float* last_x = x + last * s.stride + w * s.n;
        const float* last_mean = mean + last * s.stride + w * s.n;
        std::uint32_t broken = 0;
        for (std::size_t k = 0; k < last; ++k) {
            const float weight = weights[k * s.windows + w];
            const float pull = g[k] / g[last] * weights[last * s.windows + w];
            const float* m = mean + k * s.stride + w * s.n;
            float* to = x + k * s.stride + w * s.n;
            for (std::size_t i = 0; i < s.n; ++i) {
                to[i] = element::descend(to[i], m[i], weight, last_x[i], last_mean[i], pull, rate);
                broken |= not_finite(to[i]);
            }
        }
        finite[w] = flag[broken];
    }
}

UNMIX_WIDE void mean_from_noise(const kernel_shape& s, const float* input, const float* alpha_bar, float* result)
{
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float noise = std::sqrt(1 - alpha_bar[w]), scale = 1 / std::sqrt(alpha_bar[w]);
        for (std::size_t i = w * s.n; i < (w + 1) * s.n; ++i)
            result[i] = scale * (input[i] - noise * result[i]);
    }
}

UNMIX_WIDE void
dr_rest(const kernel_shape& s, const float* y, const float* x, const float* gains, const float* alpha_bar, float* out)
{
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float g0 = gains[2 * w], scale = std::sqrt(alpha_bar[w]) / gains[2 * w + 1];
        for (std::size_t i = w * s.n; i < (w + 1) * s.n; ++i)
            out[i] = scale * (y[i] - g0 * x[i]);
    }
}

UNMIX_WIDE void dr_reflect(const kernel_shape& s,
                           const float* y,
                           const float* b,
                           const float* x,
                           const float* gains,
                           const float* alpha_bar,
                           float* p,
                           float* out)
{
    for (std::size_t w = 0; w < s.windows; ++w) {
        const float g1 = gains[2 * w + 1], unit = 1 / gains[2 * w], scale = std::sqrt(alpha_bar[w]);
        for (std::size_t i = w * s.n; i < (w + 1) * s.n; ++i) {
            const float point = unit * (y[i] - g1 * b[i]);
            p[i] = point;
            out[i] = scale * (2 * point - x[i]);
        }
    }
}

UNMIX_WIDE void dr_project(const kernel_shape& s,
                           const float* y,
                           const float* x,
                           const float* gains,
                           const float* share,
                           const float* alpha_bar,
                           float* p,
                           float* out)
{
    std::vector<float> rest(s.n);
    for (std::size_t w = 0; w < s.windows; ++w) {
        const std::size_t at = w * s.n;
        const float* g = gains + w * s.sources;
        for (std::size_t i = 0; i < s.n; ++i)
            rest[i] = element::rest(y[at + i], x + at, g, s.stride, s.sources, i);
        for (std::size_t k = 0; k < s.sources; ++k) {
            const float part = share[w * s.sources + k], scale = std::sqrt(alpha_bar[k * s.windows + w]);
            const float* from = x + k * s.stride + at;
            float* point = p + k * s.stride + at;
            float* to = out + k * s.stride + at;
            for (std::size_t i = 0; i < s.n; ++i) {
                point[i] = from[i] + part * rest[i];
                to[i] = scale * (2 * point[i] - from[i]);
            }
        }
    }
}

UNMIX_WIDE void dr_step(
    const kernel_shape& s, const float* q, const float* p, float relaxation, std::size_t terms, float* x, float* finite)
{
    for (std::size_t w = 0; w < s.windows; ++w) {
        std::uint32_t broken = 0;
        for (std::size_t k = 0; k < terms; ++k) {
            const std::size_t at = k * s.stride + w * s.n;
            for (std::size_t i = at; i < at + s.n; ++i) {
                x[i] += relaxation * (q[i] - p[i]);
                broken |= not_finite(x[i]);
            }
        }
        finite[w] = flag[broken];
    }
}

UNMIX_WIDE void gain_moments(const kernel_shape& s, const float* y, const float* q, const float* gains, float* moments)
{
    for (std::size_t w = 0; w < s.windows; ++w) {
        const std::size_t at = w * s.n;
        const float* g = gains + w * s.sources;
        for (std::size_t k = 0; k < s.sources; ++k) {
            const float* own = q + k * s.stride + at;
            float cross = 0, square = 0;
            for (std::size_t i = 0; i < s.n; ++i) {
                const float without = element::rest(y[at + i], q + at, g, s.stride, s.sources, i) + g[k] * own[i];
                cross += without * own[i];
                square += own[i] * own[i];
            }
            moments[2 * (w * s.sources + k)] = cross;
            moments[2 * (w * s.sources + k) + 1] = square;
        }
    }
}

UNMIX_WIDE void keep_best(const kernel_shape& s,
                          const float* y,
                          const float* q,
                          const float* gains,
                          std::size_t block,
                          std::size_t radius,
                          float* residual,
                          float* best,
                          float* keep)
{
    const std::size_t samples = s.n / 2, blocks = (samples + block - 1) / block;
    std::vector<double> total(samples + 1);
    for (std::size_t w = 0; w < s.windows; ++w) {
        const std::size_t at = w * s.n;
        const float* g = gains + w * s.sources;
        const float unit = 1 / (g[0] * g[0]);
        float* r = residual + w * samples;
        for (std::size_t i = 0; i < samples; ++i) {
            const float re = element::rest(y[at + i], q + at, g, s.stride, s.sources, i);
            const float im = element::rest(y[at + samples + i], q + at, g, s.stride, s.sources, samples + i);
            r[i] = unit * (re * re + im * im);
        }
        for (std::size_t i = 0; i < samples; ++i)
            total[i + 1] = total[i] + r[i];
        for (std::size_t b = 0; b < blocks; ++b) {
            const std::size_t begin = b * block, end = std::min(begin + block, samples), middle = begin + block / 2;
            const std::size_t low = middle > radius ? middle - radius : 0, high = std::min(middle + radius, samples);
            const auto level = static_cast<float>((total[high] - total[low]) / static_cast<double>(high - low));
            if (!(level < best[w * blocks + b]))
                continue;
            best[w * blocks + b] = level;
            for (std::size_t k = 0; k < s.sources; ++k)
                for (std::size_t plane = at; plane <= at + samples; plane += samples)
                    std::copy(q + k * s.stride + plane + begin, q + k * s.stride + plane + end,
                              keep + k * s.stride + plane + begin);
        }
    }
}

} // namespace gr::unmix::cpu
