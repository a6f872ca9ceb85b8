// SPDX-License-Identifier: GPL-3.0-or-later
//
// The kernels of kernels.h on a GPU, on the legacy default stream, which orders them with torch's own work there. They
// include no torch header, so that they compile wherever nvcc is.
#include "kernel_math.h"
#include "kernels.h"

#include <cuda_runtime.h>
#include <stdexcept>
#include <string>

namespace gr::unmix::cuda {
namespace {

constexpr unsigned threads = 256;

void check(const char* name)
{
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("CUDA kernel ") + name + " failed: " + cudaGetErrorString(error));
}

//! One row of blocks per window: x walks over its elements, y over the windows.
dim3 grid(std::size_t elements, std::size_t windows)
{
    return dim3(static_cast<unsigned>((elements + threads - 1) / threads), static_cast<unsigned>(windows));
}

#define UNMIX_PLACE                                                                                                    \
    const std::size_t i = std::size_t{ blockIdx.x } * threads + threadIdx.x;                                           \
    const std::size_t w = blockIdx.y;                                                                                  \
    if (i >= s.n)                                                                                                      \
        return;                                                                                                        \
    const std::size_t at = w * s.n + i

__global__ void last_source_kernel(kernel_shape s, const float* y, const float* gains, float* x)
{
    UNMIX_PLACE;
    const float* g = gains + w * s.sources;
    const std::size_t last = s.sources - 1;
    x[last * s.stride + at] = element::rest(y[at], x, g, s.stride, last, at) / g[last];
}

__global__ void smooth_kernel(kernel_shape s,
                              const float* x,
                              const float* alpha_bar,
                              std::uint64_t seed,
                              const std::uint64_t* index,
                              std::uint32_t step,
                              std::uint32_t source,
                              float* out)
{
    const std::uint32_t place = blockIdx.x * threads + threadIdx.x;
    const std::size_t w = blockIdx.y;
    if (4 * std::size_t{ place } >= s.n)
        return;
    const float signal = sqrtf(alpha_bar[w]), noise = sqrtf(1 - alpha_bar[w]);
    const auto word = random::draw(seed, index[w], step, source, place);
    float z[4];
    random::normals(word.v[0], word.v[1], z[0], z[1]);
    random::normals(word.v[2], word.v[3], z[2], z[3]);
    for (std::size_t j = 0; j < 4 && 4 * std::size_t{ place } + j < s.n; ++j) {
        const std::size_t at = w * s.n + 4 * std::size_t{ place } + j;
        out[at] = signal * x[at] + noise * z[j];
    }
}

__global__ void descend_kernel(
    kernel_shape s, const float* mean, const float* weights, const float* gains, float rate, float* x, float* finite)
{
    UNMIX_PLACE;
    const float* g = gains + w * s.sources;
    const std::size_t last = s.sources - 1;
    const float last_x = x[last * s.stride + at], last_mean = mean[last * s.stride + at];
    for (std::size_t k = 0; k < last; ++k) {
        const std::size_t p = k * s.stride + at;
        const float pull = g[k] / g[last] * weights[last * s.windows + w];
        x[p] = element::descend(x[p], mean[p], weights[k * s.windows + w], last_x, last_mean, pull, rate);
        if (!isfinite(x[p]))
            finite[w] = x[p]; // any writer will do
    }
}

__global__ void mean_from_noise_kernel(kernel_shape s, const float* input, const float* alpha_bar, float* result)
{
    UNMIX_PLACE;
    result[at] = (input[at] - sqrtf(1 - alpha_bar[w]) * result[at]) / sqrtf(alpha_bar[w]);
}

__global__ void
dr_rest_kernel(kernel_shape s, const float* y, const float* x, const float* gains, const float* alpha_bar, float* out)
{
    UNMIX_PLACE;
    out[at] = sqrtf(alpha_bar[w]) * (y[at] - gains[2 * w] * x[at]) / gains[2 * w + 1];
}

__global__ void dr_reflect_kernel(kernel_shape s,
                                  const float* y,
                                  const float* b,
                                  const float* x,
                                  const float* gains,
                                  const float* alpha_bar,
                                  float* p,
                                  float* out)
{
    UNMIX_PLACE;
    p[at] = (y[at] - gains[2 * w + 1] * b[at]) / gains[2 * w];
    out[at] = sqrtf(alpha_bar[w]) * (2 * p[at] - x[at]);
}

__global__ void dr_project_kernel(kernel_shape s,
                                  const float* y,
                                  const float* x,
                                  const float* gains,
                                  const float* share,
                                  const float* alpha_bar,
                                  float* p,
                                  float* out)
{
    UNMIX_PLACE;
    const float rest = element::rest(y[at], x, gains + w * s.sources, s.stride, s.sources, at);
    for (std::size_t k = 0; k < s.sources; ++k) {
        const std::size_t e = k * s.stride + at;
        p[e] = x[e] + share[w * s.sources + k] * rest;
        out[e] = sqrtf(alpha_bar[k * s.windows + w]) * (2 * p[e] - x[e]);
    }
}

__global__ void dr_step_kernel(
    kernel_shape s, const float* q, const float* p, float relaxation, std::size_t terms, float* x, float* finite)
{
    UNMIX_PLACE;
    for (std::size_t k = 0; k < terms; ++k) {
        const std::size_t e = k * s.stride + at;
        x[e] += relaxation * (q[e] - p[e]);
        if (!isfinite(x[e]))
            finite[w] = x[e]; // any writer will do
    }
}

__global__ void gain_moments_kernel(kernel_shape s, const float* y, const float* q, const float* gains, float* moments)
{
    __shared__ float sums[2 * threads];
    const std::size_t w = blockIdx.y, k = blockIdx.x;
    const float* g = gains + w * s.sources;
    float cross = 0, square = 0;
    for (std::size_t i = threadIdx.x; i < s.n; i += threads) {
        const std::size_t at = w * s.n + i;
        const float own = q[k * s.stride + at];
        cross += (element::rest(y[at], q, g, s.stride, s.sources, at) + g[k] * own) * own;
        square += own * own;
    }
    sums[threadIdx.x] = cross;
    sums[threads + threadIdx.x] = square;
    for (unsigned half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
            sums[threads + threadIdx.x] += sums[threads + threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        moments[2 * (w * s.sources + k)] = sums[0];
        moments[2 * (w * s.sources + k) + 1] = sums[threads];
    }
}

__global__ void residual_kernel(kernel_shape s, const float* y, const float* q, const float* gains, float* residual)
{
    const std::size_t samples = s.n / 2, i = std::size_t{ blockIdx.x } * threads + threadIdx.x, w = blockIdx.y;
    if (i >= samples)
        return;
    const float* g = gains + w * s.sources;
    const std::size_t at = w * s.n + i;
    const float re = element::rest(y[at], q, g, s.stride, s.sources, at);
    const float im = element::rest(y[at + samples], q, g, s.stride, s.sources, at + samples);
    residual[w * samples + i] = (re * re + im * im) / (g[0] * g[0]);
}

__global__ void keep_kernel(kernel_shape s,
                            const float* q,
                            std::size_t block,
                            std::size_t radius,
                            std::size_t blocks,
                            const float* residual,
                            float* best,
                            float* keep)
{
    const std::size_t samples = s.n / 2, b = std::size_t{ blockIdx.x } * threads + threadIdx.x, w = blockIdx.y;
    if (b >= blocks)
        return;
    const std::size_t begin = b * block, end = begin + block < samples ? begin + block : samples;
    const std::size_t middle = begin + block / 2;
    const std::size_t low = middle > radius ? middle - radius : 0;
    const std::size_t high = middle + radius < samples ? middle + radius : samples;
    float total = 0;
    for (std::size_t i = low; i < high; ++i)
        total += residual[w * samples + i];
    const float level = total / static_cast<float>(high - low);
    if (!(level < best[w * blocks + b]))
        return;
    best[w * blocks + b] = level;
    for (std::size_t k = 0; k < s.sources; ++k)
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t e = k * s.stride + w * s.n + i;
            keep[e] = q[e];
            keep[e + samples] = q[e + samples];
        }
}

} // namespace

void last_source(const kernel_shape& s, const float* y, const float* gains, float* x)
{
    last_source_kernel<<<grid(s.n, s.windows), threads>>>(s, y, gains, x);
    check("last_source");
}

void smooth(const kernel_shape& s,
            const float* x,
            const float* alpha_bar,
            std::uint64_t seed,
            const std::uint64_t* index,
            std::uint32_t step,
            std::uint32_t source,
            float* out)
{
    smooth_kernel<<<grid((s.n + 3) / 4, s.windows), threads>>>(s, x, alpha_bar, seed, index, step, source, out);
    check("smooth");
}

void descend(const kernel_shape& s,
             const float* mean,
             const float* weights,
             const float* gains,
             float rate,
             float* x,
             float* finite)
{
    cudaMemsetAsync(finite, 0, s.windows * sizeof(float));
    descend_kernel<<<grid(s.n, s.windows), threads>>>(s, mean, weights, gains, rate, x, finite);
    check("descend");
}

void mean_from_noise(const kernel_shape& s, const float* input, const float* alpha_bar, float* result)
{
    mean_from_noise_kernel<<<grid(s.n, s.windows), threads>>>(s, input, alpha_bar, result);
    check("mean_from_noise");
}

void dr_rest(
    const kernel_shape& s, const float* y, const float* x, const float* gains, const float* alpha_bar, float* out)
{
    dr_rest_kernel<<<grid(s.n, s.windows), threads>>>(s, y, x, gains, alpha_bar, out);
    check("dr_rest");
}

void dr_reflect(const kernel_shape& s,
                const float* y,
                const float* b,
                const float* x,
                const float* gains,
                const float* alpha_bar,
                float* p,
                float* out)
{
    dr_reflect_kernel<<<grid(s.n, s.windows), threads>>>(s, y, b, x, gains, alpha_bar, p, out);
    check("dr_reflect");
}

void dr_project(const kernel_shape& s,
                const float* y,
                const float* x,
                const float* gains,
                const float* share,
                const float* alpha_bar,
                float* p,
                float* out)
{
    dr_project_kernel<<<grid(s.n, s.windows), threads>>>(s, y, x, gains, share, alpha_bar, p, out);
    check("dr_project");
}

void dr_step(
    const kernel_shape& s, const float* q, const float* p, float relaxation, std::size_t terms, float* x, float* finite)
{
    cudaMemsetAsync(finite, 0, s.windows * sizeof(float));
    dr_step_kernel<<<grid(s.n, s.windows), threads>>>(s, q, p, relaxation, terms, x, finite);
    check("dr_step");
}

void gain_moments(const kernel_shape& s, const float* y, const float* q, const float* gains, float* moments)
{
    gain_moments_kernel<<<dim3(static_cast<unsigned>(s.sources), static_cast<unsigned>(s.windows)), threads>>>(
        s, y, q, gains, moments);
    check("gain_moments");
}

void keep_best(const kernel_shape& s,
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
    residual_kernel<<<grid(samples, s.windows), threads>>>(s, y, q, gains, residual);
    keep_kernel<<<grid(blocks, s.windows), threads>>>(s, q, block, radius, blocks, residual, best, keep);
    check("keep_best");
}

} // namespace gr::unmix::cuda
