// SPDX-License-Identifier: GPL-3.0-or-later
#include "batch.h"
#include "dispatch.h"
#include "random.h"
#include "workers.h"

#include <gnuradio/unmix/schedule.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace gr::unmix {
namespace {

constexpr long max_steps = 1000000000; // a step's number is part of a 32-bit counter

constexpr std::uint32_t level_place = 0x0fffffff; // of the random numbers that pick levels, away from the waves'

void check(const alpha_rgs_options& o, const noise_schedule& schedule, std::size_t sources)
{
    if (o.steps < 1 || o.steps > max_steps)
        throw std::invalid_argument("alpha-rgs needs 1 to 1000000000 steps, not " + std::to_string(o.steps));
    if (!(o.rate_min >= 0 && o.rate_max >= o.rate_min) || !std::isfinite(o.rate_max))
        throw std::invalid_argument("the learning rates must satisfy 0 <= rate_min <= rate_max");
    if (o.level_min < 0 || o.level_max < o.level_min || o.level_max_last < o.level_min ||
        std::max(o.level_max, o.level_max_last) >= schedule.steps())
        throw std::invalid_argument("noise levels must satisfy 0 <= level_min <= level_max < " +
                                    std::to_string(schedule.steps()));
    if (!(o.weight_cap >= 0))
        throw std::invalid_argument("the cap of the weights must not be below zero (0: none)");
    if (!o.omega.empty() && o.omega.size() != sources)
        throw std::invalid_argument("omega needs one value per source");
    for (const double w : o.omega)
        if (!(w > 0) || !std::isfinite(w))
            throw std::invalid_argument("omega must be finite and above zero");
}

//! Draws every window's levels for one step and fills abar and the weights of the pulls, both [K, active].
void draw_levels(const batch& b,
                 const alpha_rgs_options& o,
                 const noise_schedule& schedule,
                 const at::Tensor& gains,
                 const at::Tensor& index,
                 std::uint64_t seed,
                 long step,
                 double rate,
                 float* alpha_bar,
                 float* weights)
{
    const double progress = static_cast<double>(step) / static_cast<double>(o.steps);
    const int top = static_cast<int>(std::lround(o.level_max + (o.level_max_last - o.level_max) * progress));
    const auto g = gains.accessor<float, 2>();
    for (std::int64_t w = 0; w < b.active; ++w) {
        const auto number = static_cast<std::uint64_t>(index.const_data_ptr<std::int64_t>()[w]);
        for (std::size_t k = 0; k < b.sources; ++k) {
            const std::size_t own = o.equal_levels ? 0 : k;
            const auto word =
                random::draw(seed, number, static_cast<std::uint32_t>(step), own / 4, level_place).v[own % 4];
            const double level = schedule.alpha_bar(random::uniform_int(word, o.level_min, top));
            const double omega = o.omega.empty() ? g[w][k] * g[w][k] : o.omega[k];
            double weight = level / (1 - level);
            if (o.weight_cap > 0)
                weight = std::min(weight, o.weight_cap / rate);
            alpha_bar[k * b.active + w] = static_cast<float>(level);
            weights[k * b.active + w] = static_cast<float>(omega * weight);
        }
    }
}

//! Marks windows with a value that is not finite and zeroes them, so that the others go on.
void drop_diverged(batch& b, const at::Tensor& finite, std::vector<outcome>& outcomes)
{
    const at::Tensor checked = finite.cpu();
    for (std::int64_t w = 0; w < b.active; ++w)
        if (!std::isfinite(checked.const_data_ptr<float>()[w]) && outcomes[w] != outcome::diverged) {
            outcomes[w] = outcome::diverged;
            b.x.select(1, w).zero_();
            b.mixture[w].zero_();
        }
}

} // namespace

separation alpha_rgs(const mixtures& input, const alpha_rgs_options& options, const control& ctl)
{
    const noise_schedule schedule;
    const std::string device = checked_device(input);
    check(options, schedule, input.priors.size());
    separation result = empty_result(input, ctl.block);
    if (input.windows == 0)
        return result;
    workers crew(ctl, input.windows, device, static_cast<double>(input.windows) * static_cast<double>(options.steps));

    crew.run([&] {
        std::size_t first = 0;
        while (const std::size_t count = crew.take(crew.batch(), first)) {
            if (crew.cancelled())
                return;
            batch b(input, count);
            for (std::size_t i = 0; i < count; ++i)
                b.load(first + i);
            const kernel_shape shape = b.shape();
            const auto k = static_cast<std::int64_t>(b.sources);
            const at::Tensor host_gains = b.gains.cpu(), host_index = b.index.cpu();
            const at::Tensor host_levels = at::zeros({ 2, k, b.active }, at::kFloat); // abar and weights
            const at::Tensor noisy = b.room({ b.active, 2, b.samples });
            const at::Tensor finite = b.room({ b.active });
            std::vector<outcome> outcomes(count, outcome::steps_used);
            float* x = b.x.data_ptr<float>();
            const float* gains = b.gains.const_data_ptr<float>();
            const float* y = b.mixture.const_data_ptr<float>();
            const auto* index = reinterpret_cast<const std::uint64_t*>(b.index.const_data_ptr<std::int64_t>());

            long step = 0;
            for (; step < options.steps && !crew.cancelled(); ++step) {
                const double rate = cosine_anneal(options.rate_max, options.rate_min, step, options.steps);
                float* const host = host_levels.data_ptr<float>();
                draw_levels(b, options, schedule, host_gains, host_index, ctl.seed, step, rate, host,
                            host + k * b.active);
                const at::Tensor levels = host_levels.to(b.options.device());
                UNMIX_DISPATCH(b.x, last_source)(shape, y, gains, x);
                for (std::size_t s = 0; s < b.sources; ++s) {
                    const at::Tensor level = levels[0][static_cast<std::int64_t>(s)];
                    UNMIX_DISPATCH(b.x, smooth)
                    (shape, x + s * b.stride, level.const_data_ptr<float>(), ctl.seed, index,
                     static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(s), noisy.data_ptr<float>());
                    b.denoise(s, noisy, level);
                }
                UNMIX_DISPATCH(b.x, descend)
                (shape, b.mean.const_data_ptr<float>(), levels[1].const_data_ptr<float>(), gains,
                 static_cast<float>(rate), x, finite.data_ptr<float>());
                drop_diverged(b, finite, outcomes);
                crew.advance(static_cast<double>(count));
            }

            // The result: the variables, and how far the denoised sources are from explaining the mixture.
            UNMIX_DISPATCH(b.x, last_source)(shape, y, gains, x);
            const at::Tensor best = at::full({ b.active, static_cast<std::int64_t>(result.blocks) }, 1e30, b.options);
            const at::Tensor residual = b.room({ b.active, b.samples }), unused = at::empty_like(b.mean);
            const at::Tensor level = at::full({ b.active }, schedule.alpha_bar(options.level_min), b.options);
            for (std::size_t s = 0; s < b.sources; ++s)
                b.denoise(s, b.source(b.x, s) * level[0].sqrt(), level);
            UNMIX_DISPATCH(b.x, keep_best)
            (shape, y, b.mean.const_data_ptr<float>(), gains, ctl.block, 4 * ctl.block, residual.data_ptr<float>(),
             best.data_ptr<float>(), unused.data_ptr<float>());
            const at::Tensor disagreement = best.cpu();
            for (std::size_t i = 0; i < count; ++i) {
                const bool whole = step == options.steps;
                if (outcomes[i] != outcome::diverged) { // else the result stays zero
                    b.store(i, b.x, result);
                    std::copy_n(disagreement[i].const_data_ptr<float>(), result.blocks,
                                result.disagreement.data() + (first + i) * result.blocks);
                }
                result.calls[first + i] = static_cast<std::int32_t>(step);
                result.outcomes[first + i] =
                    outcomes[i] == outcome::diverged || whole ? outcomes[i] : outcome::cancelled;
                if (whole)
                    crew.finish_window();
            }
        }
    });
    return result;
}

} // namespace gr::unmix
