// SPDX-License-Identifier: GPL-3.0-or-later
#include "batch.h"

#include <cmath>
#include <stdexcept>

namespace gr::unmix {
namespace {

constexpr std::size_t max_sources = 16;

//! A complex window as planes [2, samples], on the CPU, without a copy.
at::Tensor planes(const std::complex<float>* window, std::int64_t samples)
{
    auto* data = const_cast<float*>(reinterpret_cast<const float*>(window));
    return at::from_blob(data, { samples, 2 }, at::kFloat).t();
}

} // namespace

std::string checked_device(const mixtures& input)
{
    if (input.priors.size() < 2)
        throw std::invalid_argument("a separation needs the priors of at least 2 sources");
    if (input.side.size() != input.priors.size() || input.side_width.size() != input.priors.size())
        throw std::invalid_argument("side information is needed for every source (it may be empty)");
    if (input.priors.size() > max_sources)
        throw std::invalid_argument("at most 16 sources can be separated"); // their number is part of a counter
    if (input.samples == 0)
        throw std::invalid_argument("a window needs at least one sample");
    for (const auto& p : input.priors)
        if (p->device() != input.priors[0]->device())
            throw std::invalid_argument("all priors must be loaded on one device");
    for (std::size_t i = 0; i < input.windows * input.priors.size(); ++i)
        if (!(input.gains[i] > 0) || !std::isfinite(input.gains[i]))
            throw std::invalid_argument("every gain must be finite and above zero");
    for (std::size_t i = 0; input.noise && i < input.windows; ++i)
        if (!(input.noise[i] >= 0) || !std::isfinite(input.noise[i]))
            throw std::invalid_argument("the noise's variance must be finite and not below zero");
    for (std::size_t i = 0; i < input.windows * input.samples; ++i)
        if (!std::isfinite(input.mixture[i].real()) || !std::isfinite(input.mixture[i].imag()))
            throw std::invalid_argument("the mixture has a NaN or infinite sample in window " +
                                        std::to_string(i / input.samples));
    return input.priors[0]->device();
}

separation empty_result(const mixtures& input, std::size_t block)
{
    if (block == 0 || block > input.samples)
        throw std::invalid_argument("a block of the disagreement must have 1 sample to a whole window");
    separation result;
    const std::size_t sources = input.priors.size();
    result.blocks = (input.samples + block - 1) / block;
    result.sources.resize(sources * input.windows * input.samples);
    result.gains.assign(input.gains, input.gains + input.windows * sources);
    result.disagreement.assign(input.windows * result.blocks, 0.0f);
    result.calls.assign(input.windows, 0);
    result.outcomes.assign(input.windows, outcome::untouched);
    return result;
}

batch::batch(const mixtures& in, std::size_t room_for)
    : input(in), capacity(static_cast<std::int64_t>(room_for)), samples(static_cast<std::int64_t>(in.samples)),
      sources(in.priors.size()), stride(room_for * 2 * in.samples),
      options(at::device(torch::Device(in.priors[0]->device())).dtype(at::kFloat))
{
    const auto k = static_cast<std::int64_t>(sources);
    mixture = room({ capacity, 2, samples });
    x = room({ k, capacity, 2, samples });
    mean = room({ k, capacity, 2, samples });
    gains = room({ capacity, k });
    index = at::zeros({ capacity }, options.dtype(at::kLong));
    for (std::size_t s = 0; s < sources; ++s)
        side.push_back(room({ capacity, static_cast<std::int64_t>(in.side_width[s]) }));
}

void batch::load(std::size_t from)
{
    const std::int64_t slot = active++;
    window.push_back(from);
    mixture[slot].copy_(planes(input.mixture + from * input.samples, samples));
    index[slot].fill_(static_cast<std::int64_t>(input.index ? input.index[from] : from));
    for (std::size_t k = 0; k < sources; ++k) {
        x[k][slot].copy_(planes(input.initial + (k * input.windows + from) * input.samples, samples));
        const auto width = static_cast<std::int64_t>(input.side_width[k]);
        if (width > 0)
            side[k][slot].copy_(
                at::from_blob(const_cast<float*>(input.side[k] + from * input.side_width[k]), { width }, at::kFloat));
    }
    gains[slot].copy_(at::from_blob(const_cast<float*>(input.gains + from * sources),
                                    { static_cast<std::int64_t>(sources) }, at::kFloat));
}

void batch::store(std::size_t slot, const at::Tensor& estimates, separation& result) const
{
    const auto s = static_cast<std::int64_t>(slot);
    const std::size_t to = window[slot];
    for (std::size_t k = 0; k < sources; ++k) {
        std::complex<float>* place = result.sources.data() + (k * input.windows + to) * input.samples;
        at::from_blob(reinterpret_cast<float*>(place), { samples, 2 }, at::kFloat).copy_(estimates[k][s].t());
    }
    const at::Tensor row = gains[s].cpu();
    std::copy_n(row.const_data_ptr<float>(), sources, result.gains.data() + to * sources);
}

void batch::drop(std::size_t slot)
{
    const auto to = static_cast<std::int64_t>(slot), last = --active;
    if (to != last) {
        for (std::size_t k = 0; k < sources; ++k) {
            x[k][to].copy_(x[k][last]);
            side[k][to].copy_(side[k][last]);
        }
        for (at::Tensor* t : { &mixture, &gains, &index })
            (*t)[to].copy_((*t)[last]);
        for (at::Tensor* t : per_slot)
            (*t)[to].copy_((*t)[last]);
        window[slot] = window.back();
    }
    window.pop_back();
}

void batch::denoise(std::size_t k, const at::Tensor& noisy, const at::Tensor& alpha_bar)
{
    source(mean, k).copy_(input.priors[k]->get().denoise(noisy, alpha_bar, side[k].narrow(0, 0, active)));
}

} // namespace gr::unmix
