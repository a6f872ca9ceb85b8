// SPDX-License-Identifier: GPL-3.0-or-later
#include "batch.h"
#include "dispatch.h"
#include "workers.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace gr::unmix {
namespace {

constexpr float unsolved = 1e30f; // disagreement of a block before the first call

//! Denoising variance per real channel where nothing else is asked for; never below the noise's own. Around -10 dB .1
//! leaves one window in 150 without agreement after 50 calls, .03 one in 400.
constexpr float least_variance = 0.03f;

void check(const pnp_dr_options& o, std::size_t sources, std::size_t samples)
{
    if (o.steps < 1)
        throw std::invalid_argument("pnp-dr needs at least 1 step, not " + std::to_string(o.steps));
    if (!o.v.empty() && o.v.size() != sources)
        throw std::invalid_argument("the denoising variance needs one value per source");
    for (const double v : o.v)
        if (!(v > 0) || !std::isfinite(v))
            throw std::invalid_argument("the denoising variance must be finite and above zero");
    if (!(o.relaxation > 0 && o.relaxation < 2))
        throw std::invalid_argument("the relaxation must lie between 0 and 2");
    if (!(o.agreement > 0))
        throw std::invalid_argument("the agreement must be above zero");
    if (2 * o.margin >= samples)
        throw std::invalid_argument("the margins leave nothing of the window");
}

//! One thread's windows and the state of their iterations.
class iteration
{
public:
    iteration(const mixtures& input,
              const pnp_dr_options& options,
              const control& ctl,
              std::size_t capacity,
              std::size_t blocks)
        : b(input, capacity), d_options(options), d_block(ctl.block), d_blocks(blocks)
    {
        const auto room = static_cast<std::int64_t>(capacity), k = static_cast<std::int64_t>(b.sources);
        d_best = b.room({ room, static_cast<std::int64_t>(blocks) });
        d_keep = b.room({ k, room, 2, b.samples });
        d_point = b.room({ k, room, 2, b.samples });
        d_noisy = b.room({ k, room, 2, b.samples });
        d_residual = b.room({ room, b.samples });
        d_finite = b.room({ room });
        d_moments = b.room({ room, k, 2 });
        for (std::size_t s = 0; s < b.sources; ++s)
            d_alpha_bar.push_back(b.room({ room }));
        b.per_slot = { &d_best };
        for (auto& level : d_alpha_bar)
            b.per_slot.push_back(&level);
    }

    void load(std::size_t window)
    {
        d_best[b.active].fill_(unsolved);
        const float* g = b.input.gains + window * b.sources;
        const float noise = b.input.noise ? b.input.noise[window] : 0.0f;
        for (std::size_t k = 0; k < b.sources; ++k) {
            const float v = d_options.v.empty() ? std::max(least_variance, 0.5f * noise / (g[k] * g[k]))
                                                : static_cast<float>(d_options.v[k]);
            d_alpha_bar[k][b.active].fill_(1 / (1 + v));
        }
        b.load(window);
        d_calls.push_back(0);
        d_noise.push_back(noise / (g[0] * g[0]));
    }

    void drop(std::size_t slot)
    {
        for (std::size_t k = 0; k < b.sources; ++k)
            d_keep[k][slot].copy_(d_keep[k][b.active - 1]);
        b.drop(slot);
        d_calls[slot] = d_calls.back();
        d_calls.pop_back();
        d_noise[slot] = d_noise.back();
        d_noise.pop_back();
    }

    //! One call of every prior for every active window.
    void step()
    {
        if (b.sources == 2)
            step_two();
        else
            step_product();
        const kernel_shape shape = b.shape();
        const float *y = b.mixture.const_data_ptr<float>(), *mean = b.mean.const_data_ptr<float>();
        if (d_options.refine_gains)
            refine_gains();
        UNMIX_DISPATCH(b.x, keep_best)
        (shape, y, mean, b.gains.const_data_ptr<float>(), d_block, 4 * d_block, d_residual.data_ptr<float>(),
         d_best.data_ptr<float>(), d_keep.data_ptr<float>());
        d_host_best = d_best.cpu();
        d_host_finite = d_finite.cpu();
        for (auto& calls : d_calls)
            ++calls;
    }

    //! How a window stands after a step; steps_used while it has to go on only if the steps are used up.
    bool ended(std::size_t slot, outcome& how) const
    {
        if (!std::isfinite(d_host_finite.const_data_ptr<float>()[slot])) {
            how = outcome::diverged;
            return true;
        }
        const float* best = d_host_best.const_data_ptr<float>() + slot * d_blocks;
        const std::size_t margin = d_options.margin / d_block;
        std::vector<float> level(best + margin, best + d_blocks - margin);
        const float worst = *std::max_element(level.begin(), level.end());
        const auto middle = level.begin() + static_cast<std::ptrdiff_t>(level.size() / 2);
        std::nth_element(level.begin(), middle, level.end());
        how = worst < agreement_threshold(d_options.agreement, *middle, d_noise[slot]) ? outcome::agreed
                                                                                       : outcome::steps_used;
        return how == outcome::agreed || d_calls[slot] >= d_options.steps;
    }

    void store(std::size_t slot, outcome how, separation& result) const
    {
        const std::size_t to = b.window[slot];
        result.calls[to] = d_calls[slot];
        result.outcomes[to] = d_calls[slot] == 0 ? outcome::untouched : how;
        if (how == outcome::diverged || d_calls[slot] == 0)
            return; // the result stays zero
        b.store(slot, d_keep, result);
        std::copy_n(d_host_best.const_data_ptr<float>() + slot * d_blocks, d_blocks,
                    result.disagreement.data() + to * d_blocks);
    }

    batch b;

private:
    at::Tensor level(std::size_t k) const { return d_alpha_bar[k].narrow(0, 0, b.active); }

    //! Two sources: the mixture ties the interference to the SOI, so one variable is enough.
    void step_two()
    {
        const kernel_shape shape = b.shape();
        const float *y = b.mixture.const_data_ptr<float>(), *gains = b.gains.const_data_ptr<float>();
        const at::Tensor noisy = b.source(d_noisy, 0), point = b.source(d_point, 0);
        float* x = b.x.data_ptr<float>();
        UNMIX_DISPATCH(b.x, dr_rest)
        (shape, y, x, gains, level(1).const_data_ptr<float>(), noisy.data_ptr<float>());
        b.denoise(1, noisy, level(1));
        UNMIX_DISPATCH(b.x, dr_reflect)
        (shape, y, b.source(b.mean, 1).const_data_ptr<float>(), x, gains, level(0).const_data_ptr<float>(),
         point.data_ptr<float>(), noisy.data_ptr<float>());
        b.denoise(0, noisy, level(0));
        UNMIX_DISPATCH(b.x, dr_step)
        (shape, b.mean.const_data_ptr<float>(), point.const_data_ptr<float>(), static_cast<float>(d_options.relaxation),
         1, x, d_finite.data_ptr<float>());
    }

    //! K sources: project all variables on the mixture, then denoise each.
    void step_product()
    {
        const kernel_shape shape = b.shape();
        const at::Tensor gains = b.gains.narrow(0, 0, b.active);
        const at::Tensor share = (1 / (gains * static_cast<double>(b.sources))).contiguous();
        std::vector<at::Tensor> levels;
        for (std::size_t k = 0; k < b.sources; ++k)
            levels.push_back(level(k));
        const at::Tensor all = at::stack(levels);
        UNMIX_DISPATCH(b.x, dr_project)
        (shape, b.mixture.const_data_ptr<float>(), b.x.const_data_ptr<float>(), gains.const_data_ptr<float>(),
         share.const_data_ptr<float>(), all.const_data_ptr<float>(), d_point.data_ptr<float>(),
         d_noisy.data_ptr<float>());
        for (std::size_t k = 0; k < b.sources; ++k)
            b.denoise(k, b.source(d_noisy, k), levels[k]);
        UNMIX_DISPATCH(b.x, dr_step)
        (shape, b.mean.const_data_ptr<float>(), d_point.const_data_ptr<float>(),
         static_cast<float>(d_options.relaxation), b.sources, b.x.data_ptr<float>(), d_finite.data_ptr<float>());
    }

    //! gain_k <- Re <y - the others, q_k> / |q_k|^2 for all but the SOI; within a factor of two of what was given.
    void refine_gains()
    {
        UNMIX_DISPATCH(b.x, gain_moments)
        (b.shape(), b.mixture.const_data_ptr<float>(), b.mean.const_data_ptr<float>(), b.gains.const_data_ptr<float>(),
         d_moments.data_ptr<float>());
        const at::Tensor moments = d_moments.cpu();
        const auto m = moments.accessor<float, 3>();
        // With three sources and more, early estimates lead the gains astray: 1 of 12 windows agreed instead of 6.
        const int first_refined = b.sources == 2 ? 0 : 16;
        at::Tensor gains = b.gains.cpu();
        auto g = gains.accessor<float, 2>();
        for (std::int64_t w = 0; w < b.active; ++w)
            for (std::size_t k = 1; k < b.sources && d_calls[w] >= first_refined; ++k) {
                const float given = b.input.gains[b.window[w] * b.sources + k];
                if (m[w][k][1] > 0 && std::isfinite(m[w][k][0]))
                    g[w][k] = std::clamp(m[w][k][0] / m[w][k][1], given / 2, given * 2);
            }
        b.gains.copy_(gains);
    }

    const pnp_dr_options& d_options;
    const std::size_t d_block, d_blocks;
    std::vector<at::Tensor> d_alpha_bar; // per source [capacity]
    at::Tensor d_best, d_keep, d_point, d_noisy, d_residual, d_finite, d_moments;
    at::Tensor d_host_best, d_host_finite;
    std::vector<std::int32_t> d_calls;
    std::vector<float> d_noise; // largest that a window may have, relative to the SOI
};

} // namespace

double agreement_threshold(double agreement, double median_disagreement, double noise)
{
    constexpr double possible_noise = 0.02; // taken for possible whatever the estimate says: a spectrum cannot show it
    constexpr double margin = 1.35;         // over the mean: noise over 128 samples in the worst of some 20 places
    return agreement + margin * std::min(median_disagreement, std::max(noise, possible_noise));
}

separation pnp_dr(const mixtures& input, const pnp_dr_options& options, const control& ctl)
{
    const std::string device = checked_device(input);
    check(options, input.priors.size(), input.samples);
    separation result = empty_result(input, ctl.block);
    if (input.windows == 0)
        return result;
    workers crew(ctl, input.windows, device, static_cast<double>(input.windows));

    crew.run([&] {
        iteration it(input, options, ctl, crew.batch(), result.blocks);
        std::size_t first = 0;
        const auto refill = [&] {
            while (it.b.active < it.b.capacity && !crew.cancelled() && crew.take(1, first))
                it.load(first);
        };
        for (refill(); it.b.active > 0; refill()) {
            const bool stop = crew.cancelled();
            if (!stop)
                it.step();
            for (auto slot = static_cast<std::size_t>(it.b.active); slot-- > 0;) {
                outcome how = outcome::cancelled;
                if (!stop && !it.ended(slot, how))
                    continue;
                it.store(slot, how, result);
                it.drop(slot);
                if (!stop) {
                    crew.finish_window();
                    crew.advance(1);
                }
            }
        }
    });
    return result;
}

} // namespace gr::unmix
