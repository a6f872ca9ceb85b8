// SPDX-License-Identifier: GPL-3.0-or-later
//
// The engine's arithmetic against closed forms, published vectors and plain loops in double precision. The kernels are
// private to the library, so that their source is compiled into this program, with sums that may be reordered as there.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "no-math-errno", "no-trapping-math", "no-signed-zeros", "associative-math")
#endif
#include "kernels_cpu.cc"

#include <gnuradio/unmix/schedule.h>
#include <gnuradio/unmix/separator.h>

#include <cmath>
#include <complex>
#include <cstdio>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace gr::unmix;
using floats = std::vector<float>;

int failures_of_test = 0;

void expect(bool holds, const std::string& what)
{
    if (!holds) {
        ++failures_of_test;
        std::printf("  FAILED: %s\n", what.c_str());
    }
}

void expect_near(double value, double wanted, double tolerance, const std::string& what)
{
    expect(std::abs(value - wanted) <= tolerance, what + ": " + std::to_string(value) + ", expected " +
                                                      std::to_string(wanted) + " +- " + std::to_string(tolerance));
}

template <typename Exception, typename Call>
void expect_throws(Call call, const std::string& what)
{
    try {
        call();
    } catch (const Exception& e) {
        expect(std::string(e.what()).size() > 10, what + ": says nothing");
        return;
    } catch (...) {
        expect(false, what + ": another exception");
        return;
    }
    expect(false, what + ": no exception");
}

floats random_floats(std::size_t count, unsigned seed)
{
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    floats result(count);
    for (float& v : result)
        v = normal(engine);
    return result;
}

//! Largest absolute difference; infinite where the sizes or a NaN differ.
double distance(const floats& a, const std::vector<double>& b)
{
    double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        if (!(std::abs(a[i] - b[i]) <= worst))
            worst = std::isnan(a[i] - b[i]) ? std::numeric_limits<double>::infinity() : std::abs(a[i] - b[i]);
    return worst;
}

// K sources with room for more windows than are active, as in a batch.
struct small_case {
    std::size_t windows, n, sources, stride;
    floats y, x, mean, gains;

    small_case(std::size_t w, std::size_t samples, std::size_t k)
        : windows(w), n(2 * samples), sources(k), stride((w + 1) * n)
    {
        y = random_floats(w * n, 1);
        x = random_floats(k * stride, 2);
        mean = random_floats(k * stride, 3);
        gains = random_floats(w * k, 4);
        for (float& g : gains)
            g = 0.5f + std::abs(g);
    }

    kernel_shape shape() const { return { windows, n, sources, stride }; }
    double gain(std::size_t w, std::size_t k) const { return gains[w * sources + k]; }
    std::size_t at(std::size_t w, std::size_t k, std::size_t i) const { return k * stride + w * n + i; }
};

// ---------------------------------------------------------------------------------------------------------------------

void schedule_holds_the_papers_noise_levels()
{
    const noise_schedule schedule;
    double product = 1;
    expect(schedule.steps() == 50, "50 levels");
    for (int t = 0; t < 50; ++t) {
        product *= 1 - (1e-4 + (0.05 - 1e-4) * t / 49.0);
        expect_near(schedule.alpha_bar(t), product, 1e-15, "abar of level " + std::to_string(t));
    }
    expect_near(1 - schedule.alpha_bar(0), 1e-4, 1e-12, "1 - abar_0");
    expect_near(1 - schedule.alpha_bar(1), 1.218e-3, 5e-7, "1 - abar_1");
    expect_near(1 - schedule.alpha_bar(49), 0.720, 5e-4, "1 - abar_49");
}

void schedule_refuses_the_impossible()
{
    expect_throws<std::invalid_argument>([] { noise_schedule(0, 0.05, 50); }, "beta_min = 0");
    expect_throws<std::invalid_argument>([] { noise_schedule(0.06, 0.05, 50); }, "beta_min > beta_max");
    expect_throws<std::invalid_argument>([] { noise_schedule(1e-4, 1, 50); }, "beta_max = 1");
    expect_throws<std::invalid_argument>([] { noise_schedule(1e-4, std::nan(""), 50); }, "beta_max NaN");
    expect_throws<std::invalid_argument>([] { noise_schedule(1e-4, 0.05, 1); }, "one step");
    expect_throws<std::out_of_range>([] { noise_schedule().alpha_bar(50); }, "level 50");
    expect_throws<std::out_of_range>([] { noise_schedule().alpha_bar(-1); }, "level -1");
    expect_near(noise_schedule(0.1, 0.1, 2).alpha_bar(1), 0.81, 1e-15, "two equal steps are allowed");
}

void cosine_annealing_runs_from_first_to_last()
{
    expect_near(cosine_anneal(5e-3, 1e-6, 0, 100), 5e-3, 1e-15, "first");
    expect_near(cosine_anneal(5e-3, 1e-6, 100, 100), 1e-6, 1e-15, "last");
    expect_near(cosine_anneal(5e-3, 1e-6, 50, 100), (5e-3 + 1e-6) / 2, 1e-15, "middle");
    expect_near(cosine_anneal(2, 1, 1, 3), 1.75, 1e-12, "a third: 1 + (1 + cos 60 deg) / 2");
    expect_near(cosine_anneal(7, 3, 0, 1), 7, 1e-12, "a single step takes the first rate");
}

void philox_gives_random123s_known_answers()
{
    // Random123 1.14, kat_vectors, philox4x32 with 10 rounds.
    struct {
        std::uint32_t counter[4];
        std::uint64_t key;
        std::uint32_t result[4];
    } const vectors[] = {
        { { 0, 0, 0, 0 }, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          0xffffffffffffffffu,
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          0x299f31d0a4093822u,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (const auto& v : vectors) {
        const auto got = random::philox(v.counter[0], v.counter[1], v.counter[2], v.counter[3], v.key);
        for (int i = 0; i < 4; ++i)
            expect(got.v[i] == v.result[i], "philox word " + std::to_string(i));
    }
}

void random_numbers_differ_in_every_part_of_their_counter()
{
    const auto base = random::draw(1, 2, 3, 1, 5);
    const random::block others[] = { random::draw(9, 2, 3, 1, 5), random::draw(1 + (1ull << 40), 2, 3, 1, 5),
                                     random::draw(1, 9, 3, 1, 5), random::draw(1, 2 + (1ull << 40), 3, 1, 5),
                                     random::draw(1, 2, 9, 1, 5), random::draw(1, 2, 3, 2, 5),
                                     random::draw(1, 2, 3, 1, 6) };
    for (const auto& other : others)
        for (int i = 0; i < 4; ++i)
            expect(other.v[i] != base.v[i], "a changed part of the counter changes the words");
}

void normals_are_box_muller_to_single_precision()
{
    double worst = 0, worst_log = 0;
    const auto check = [&](std::uint32_t a, std::uint32_t b) {
        float first, second;
        random::normals(a, b, first, second);
        const double u = ((a >> 8) + 1.0) / 16777216.0;
        // b's top quarter and 24 more bits: the angle runs from -pi/4 on.
        const double angle = 2 * std::numbers::pi * ((b >> 6) / 67108864.0) - std::numbers::pi / 4;
        const double radius = std::sqrt(-2 * std::log(u));
        worst = std::max(
            { worst, std::abs(first - radius * std::cos(angle)), std::abs(second - radius * std::sin(angle)) });
        worst_log = std::max(worst_log, std::abs(random::log_of(static_cast<float>(u)) - std::log(u)) /
                                            std::max(1e-3, std::abs(std::log(u))));
    };
    std::mt19937 engine(5);
    for (int i = 0; i < 2000000; ++i)
        check(engine(), engine());
    for (const std::uint32_t a : { 0u, 0xffu, 0x100u, 0x7fffffffu, 0x80000000u, 0xb504f300u, 0xb504f400u, 0xffffffffu })
        for (std::uint32_t quarter = 0; quarter < 4; ++quarter)
            for (const std::uint32_t b : { 0u, 1u << 6, 0x1fffffffu, 0x20000000u, 0x3fffffffu })
                check(a, (quarter << 30) | b);
    expect(worst < 3e-6, "normals differ from Box-Muller by " + std::to_string(worst * 1e6) + "e-6");
    expect(worst_log < 3e-7, "log_of has a relative error of " + std::to_string(worst_log * 1e7) + "e-7");
}

void normals_have_a_normals_moments()
{
    constexpr int count = 1 << 21; // values; each moment within 5 standard deviations
    double sum[5] = {}, pair = 0, in_step = 0, in_place = 0;
    float previous = 0, last_step = 0;
    for (std::uint32_t place = 0; place < count / 4; ++place) {
        const auto word = random::draw(7, 0, 0, 0, place), next = random::draw(7, 0, 1, 0, place);
        float z[4];
        random::normals(word.v[0], word.v[1], z[0], z[1]);
        random::normals(word.v[2], word.v[3], z[2], z[3]);
        random::normals(next.v[0], next.v[1], last_step, previous);
        in_step += z[0] * last_step;
        in_place += z[0] * z[2];
        pair += z[0] * z[1];
        for (const double v : z)
            for (int m = 1; m < 5; ++m)
                sum[m] += std::pow(v, m);
    }
    const double n = count;
    expect_near(sum[1] / n, 0, 5 / std::sqrt(n), "mean");
    expect_near(sum[2] / n, 1, 5 * std::sqrt(2 / n), "variance");
    expect_near(sum[3] / n, 0, 5 * std::sqrt(15 / n), "third moment");
    expect_near(sum[4] / n, 3, 5 * std::sqrt(96 / n), "fourth moment");
    expect_near(pair / (n / 4), 0, 5 / std::sqrt(n / 4), "correlation of the two values of a pair");
    expect_near(in_place / (n / 4), 0, 5 / std::sqrt(n / 4), "correlation of the two pairs of a block");
    expect_near(in_step / (n / 4), 0, 5 / std::sqrt(n / 4), "correlation of two steps");
}

void uniform_integers_are_uniform()
{
    constexpr int count = 490000;
    std::vector<int> seen(50);
    for (std::uint32_t i = 0; i < count; ++i)
        ++seen.at(static_cast<std::size_t>(random::uniform_int(random::draw(3, 0, i, 0, 0x0fffffff).v[0], 1, 49)));
    expect(seen[0] == 0, "nothing below the range");
    double chi_square = 0;
    for (int level = 1; level < 50; ++level)
        chi_square += std::pow(seen[static_cast<std::size_t>(level)] - count / 49.0, 2) / (count / 49.0);
    expect_near(chi_square, 48, 5 * std::sqrt(2 * 48.0), "chi-square of 49 levels"); // mean 48, variance 96
    expect(random::uniform_int(0xffffffffu, 5, 5) == 5, "a range of one");
}

void smooth_adds_the_counters_noise_at_every_place()
{
    for (const std::size_t samples : { 1u, 2u, 5u, 128u, 131u, 300u, 645u }) { // below, at and above the vector's 256
        small_case c(2, samples, 2);
        const floats levels{ 0.7f, 0.2f };
        const std::uint64_t index[] = { 5, (1ull << 33) + 9 };
        floats out(c.windows * c.n);
        cpu::smooth(c.shape(), c.x.data() + c.stride, levels.data(), 11, index, 6, 1, out.data());
        std::vector<double> wanted(out.size());
        for (std::size_t w = 0; w < 2; ++w)
            for (std::size_t i = 0; i < c.n; ++i) {
                const auto word = random::draw(11, index[w], 6, 1, static_cast<std::uint32_t>(i / 4));
                float z[4];
                random::normals(word.v[0], word.v[1], z[0], z[1]);
                random::normals(word.v[2], word.v[3], z[2], z[3]);
                wanted[w * c.n + i] = std::sqrt(levels[w]) * c.x[c.at(w, 1, i)] + std::sqrt(1 - levels[w]) * z[i % 4];
            }
        expect(distance(out, wanted) < 2e-6, "smooth with " + std::to_string(samples) + " samples");
    }
}

void last_source_takes_what_the_others_leave_of_the_mixture()
{
    for (const std::size_t sources : { 2u, 3u, 5u }) {
        small_case c(3, 7, sources);
        floats x = c.x;
        cpu::last_source(c.shape(), c.y.data(), c.gains.data(), x.data());
        double worst = 0;
        for (std::size_t w = 0; w < 3; ++w)
            for (std::size_t i = 0; i < c.n; ++i) {
                double sum = 0;
                for (std::size_t k = 0; k < sources; ++k)
                    sum += c.gain(w, k) * x[c.at(w, k, i)];
                worst = std::max(worst, std::abs(sum - c.y[w * c.n + i]));
            }
        expect(worst < 1e-5, "the sources add up to the mixture");
        expect(std::equal(x.begin(), x.begin() + static_cast<long>((sources - 1) * c.stride), c.x.begin()),
               "the other sources stay");
    }
}

void descend_follows_equation_10_and_flags_what_is_not_finite()
{
    small_case c(3, 5, 3);
    c.x[c.at(1, 1, 4)] = std::numeric_limits<float>::infinity();
    c.mean[c.at(2, 2, 9)] = std::nanf("");
    const floats weights{ 2, 3, 4, 0.5f, 0.6f, 0.7f, 7, 8, 9 }; // [K, windows]
    floats x = c.x, finite(3);
    cpu::descend(c.shape(), c.mean.data(), weights.data(), c.gains.data(), 0.01f, x.data(), finite.data());
    double worst = 0;
    for (std::size_t k = 0; k < 2; ++k)
        for (std::size_t i = 0; i < c.n; ++i) {
            const double last = c.mean[c.at(0, 2, i)] - c.x[c.at(0, 2, i)];
            const double step = weights[3 * k] * (c.mean[c.at(0, k, i)] - c.x[c.at(0, k, i)]) -
                                c.gain(0, k) / c.gain(0, 2) * weights[6] * last;
            worst = std::max(worst, std::abs(c.x[c.at(0, k, i)] + 0.01 * step - x[c.at(0, k, i)]));
        }
    expect(worst < 1e-5, "the step is the weighted sum of both pulls");
    expect(std::isfinite(finite[0]) && !std::isfinite(finite[1]) && !std::isfinite(finite[2]),
           "exactly the windows with an infinite or NaN value are flagged");
}

void mean_from_noise_inverts_the_smoothing()
{
    small_case c(2, 5, 1);
    const floats levels{ 0.9f, 0.3f };
    floats input(c.windows * c.n), result = c.mean;
    for (std::size_t i = 0; i < input.size(); ++i) {
        const double level = levels[i / c.n];
        input[i] = static_cast<float>(std::sqrt(level) * c.y[i] + std::sqrt(1 - level) * c.mean[i]);
    }
    cpu::mean_from_noise({ 2, c.n, 1, 0 }, input.data(), levels.data(), result.data());
    expect(distance({ result.begin(), result.begin() + 20 }, { c.y.begin(), c.y.end() }) < 1e-5, "x is found again");
}

void douglas_rachford_steps_are_those_of_the_formula()
{
    small_case c(2, 5, 2);
    const floats level_b{ 0.8f, 0.9f }, level_s{ 0.5f, 0.6f };
    floats rest(20), point(20), reflected(20), x = c.x, finite(2);
    cpu::dr_rest(c.shape(), c.y.data(), c.x.data(), c.gains.data(), level_b.data(), rest.data());
    cpu::dr_reflect(c.shape(), c.y.data(), c.mean.data(), c.x.data(), c.gains.data(), level_s.data(), point.data(),
                    reflected.data());
    cpu::dr_step(c.shape(), c.mean.data(), c.y.data(), 1.5f, 1, x.data(), finite.data());
    std::vector<double> wanted[4];
    for (std::size_t i = 0; i < 20; ++i) {
        const std::size_t w = i / 10;
        const double g0 = c.gain(w, 0), g1 = c.gain(w, 1), p = (c.y[i] - g1 * c.mean[i]) / g0;
        wanted[0].push_back(std::sqrt(level_b[w]) * (c.y[i] - g0 * c.x[i]) / g1);
        wanted[1].push_back(p);
        wanted[2].push_back(std::sqrt(level_s[w]) * (2 * p - c.x[i]));
        wanted[3].push_back(c.x[i] + 1.5 * (c.mean[i] - c.y[i]));
    }
    expect(distance(rest, wanted[0]) < 1e-5, "interference's input (y - g0 x) / g1");
    expect(distance(point, wanted[1]) < 1e-5, "p = (y - g1 b) / g0");
    expect(distance(reflected, wanted[2]) < 1e-5, "reflection 2 p - x");
    expect(distance({ x.begin(), x.begin() + 20 }, wanted[3]) < 1e-5, "x += relaxation (q - p)");
    expect(std::equal(x.begin() + 20, x.end(), c.x.begin() + 20), "nothing beyond the one term");
    expect(finite[0] == 0 && finite[1] == 0, "all finite");
    x[13] = std::nanf("");
    cpu::dr_step(c.shape(), c.mean.data(), c.y.data(), 1.5f, 1, x.data(), finite.data());
    expect(std::isfinite(finite[0]) && !std::isfinite(finite[1]), "the window with a NaN is flagged");
}

void dr_project_conserves_the_mixture()
{
    small_case c(2, 9, 3);
    floats share(6), levels{ 0.9f, 0.8f, 0.7f, 0.6f, 0.5f, 0.4f }, p(c.x.size()), out(c.x.size());
    for (std::size_t w = 0; w < 2; ++w)
        for (std::size_t k = 0; k < 3; ++k)
            share[3 * w + k] =
                static_cast<float>((0.2 + 0.1333333333 * static_cast<double>(k)) / c.gain(w, k)); // sum 1
    cpu::dr_project(c.shape(), c.y.data(), c.x.data(), c.gains.data(), share.data(), levels.data(), p.data(),
                    out.data());
    double sum_error = 0, reflection_error = 0, share_error = 0;
    for (std::size_t w = 0; w < 2; ++w)
        for (std::size_t i = 0; i < c.n; ++i) {
            double sum = 0, before = c.y[w * c.n + i];
            for (std::size_t k = 0; k < 3; ++k) {
                sum += c.gain(w, k) * p[c.at(w, k, i)];
                before -= c.gain(w, k) * c.x[c.at(w, k, i)];
            }
            sum_error = std::max(sum_error, std::abs(sum - c.y[w * c.n + i]));
            for (std::size_t k = 0; k < 3; ++k) {
                const std::size_t at = c.at(w, k, i);
                share_error = std::max(share_error, std::abs(p[at] - c.x[at] - share[3 * w + k] * before));
                reflection_error = std::max(reflection_error,
                                            std::abs(out[at] - std::sqrt(levels[2 * k + w]) * (2. * p[at] - c.x[at])));
            }
        }
    expect(sum_error < 1e-5, "sum_k gain_k p_k = y");
    expect(share_error < 1e-5, "each source takes its share of the residual");
    expect(reflection_error < 1e-5, "out = sqrt(abar) (2 p - x)");
}

void gain_moments_solve_for_a_gain()
{
    small_case c(2, 33, 3);
    floats moments(12);
    // A mixture that is exactly explained by gains other than those given.
    const double truth[] = { 1.0, 2.5, 0.75 };
    for (std::size_t w = 0; w < 2; ++w) {
        c.gains[3 * w] = 1.0f;
        c.gains[3 * w + 2] = 0.75f;
        for (std::size_t i = 0; i < c.n; ++i) {
            double sum = 0;
            for (std::size_t k = 0; k < 3; ++k)
                sum += truth[k] * c.mean[c.at(w, k, i)];
            c.y[w * c.n + i] = static_cast<float>(sum);
        }
    }
    cpu::gain_moments(c.shape(), c.y.data(), c.mean.data(), c.gains.data(), moments.data());
    for (std::size_t w = 0; w < 2; ++w) {
        expect_near(moments[6 * w + 2] / moments[6 * w + 3], 2.5, 1e-5, "the one wrong gain is found");
        double square = 0;
        for (std::size_t i = 0; i < c.n; ++i)
            square += std::pow(c.mean[c.at(w, 1, i)], 2);
        expect_near(moments[6 * w + 3], square, 1e-4, "energy");
    }
}

void keep_best_keeps_the_blocks_with_less_disagreement()
{
    // 3 blocks of 16, the last one cut; gain 2 of the SOI scales the level by 1/4.
    for (const std::size_t samples : { 41u, 48u, 16u, 7u }) {
        const std::size_t block = 16, radius = 10, blocks = (samples + block - 1) / block;
        small_case c(2, samples, 2);
        floats residual(2 * samples), best(2 * blocks, 1e30f), keep(c.x.size(), -77.0f);
        for (int round = 0; round < 4; ++round) {
            const floats q = random_floats(c.x.size(), 10 + static_cast<unsigned>(round));
            const floats old_best = best, old_keep = keep;
            cpu::keep_best(c.shape(), c.y.data(), q.data(), c.gains.data(), block, radius, residual.data(), best.data(),
                           keep.data());
            for (std::size_t w = 0; w < 2; ++w)
                for (std::size_t b = 0; b < blocks; ++b) {
                    const auto middle = static_cast<long>(b * block + block / 2);
                    double sum = 0;
                    int count = 0;
                    for (long i = std::max(0L, middle - 10); i < std::min(middle + 10, static_cast<long>(samples));
                         ++i) {
                        ++count;
                        for (const std::size_t plane : { std::size_t{ 0 }, samples }) {
                            double r = c.y[w * c.n + plane + static_cast<std::size_t>(i)];
                            for (std::size_t k = 0; k < 2; ++k)
                                r -= c.gain(w, k) * q[c.at(w, k, plane + static_cast<std::size_t>(i))];
                            sum += r * r;
                        }
                    }
                    const double level = sum / count / (c.gain(w, 0) * c.gain(w, 0));
                    const bool better = level < old_best[w * blocks + b];
                    expect_near(best[w * blocks + b], better ? level : old_best[w * blocks + b], 1e-4,
                                "level of a block");
                    const floats& source = better ? q : old_keep;
                    bool right = true;
                    for (std::size_t i = b * block; i < std::min((b + 1) * block, samples); ++i)
                        for (std::size_t k = 0; k < 2; ++k)
                            right = right && keep[c.at(w, k, i)] == source[c.at(w, k, i)] &&
                                    keep[c.at(w, k, samples + i)] == source[c.at(w, k, samples + i)];
                    expect(right, "samples of block " + std::to_string(b) + " of " + std::to_string(samples));
                }
        }
    }
}

void mixtures_that_are_incomplete_are_refused()
{
    expect_throws<std::invalid_argument>([] { alpha_rgs({}, {}, {}); }, "alpha-RGS without sources");
    expect_throws<std::invalid_argument>([] { pnp_dr({}, {}, {}); }, "Douglas-Rachford without sources");
    expect_throws<std::invalid_argument>([] { prior::from_bytes("no archive"); }, "garbage as a prior");
    expect_throws<std::invalid_argument>([] { prior::from_file("/nonexistent/prior.pt"); }, "a missing file");
    expect_throws<std::invalid_argument>([] { prior::from_bytes("", "abacus"); }, "an unknown device");
}

} // namespace

int main()
{
    struct {
        const char* name;
        void (*run)();
    } const tests[] = {
#define TEST(name) { #name, name }
        TEST(schedule_holds_the_papers_noise_levels),
        TEST(schedule_refuses_the_impossible),
        TEST(cosine_annealing_runs_from_first_to_last),
        TEST(philox_gives_random123s_known_answers),
        TEST(random_numbers_differ_in_every_part_of_their_counter),
        TEST(normals_are_box_muller_to_single_precision),
        TEST(normals_have_a_normals_moments),
        TEST(uniform_integers_are_uniform),
        TEST(smooth_adds_the_counters_noise_at_every_place),
        TEST(last_source_takes_what_the_others_leave_of_the_mixture),
        TEST(descend_follows_equation_10_and_flags_what_is_not_finite),
        TEST(mean_from_noise_inverts_the_smoothing),
        TEST(douglas_rachford_steps_are_those_of_the_formula),
        TEST(dr_project_conserves_the_mixture),
        TEST(gain_moments_solve_for_a_gain),
        TEST(keep_best_keeps_the_blocks_with_less_disagreement),
        TEST(mixtures_that_are_incomplete_are_refused),
#undef TEST
    };
    int passed = 0, failed = 0;
    for (const auto& test : tests) {
        failures_of_test = 0;
        test.run();
        ++(failures_of_test ? failed : passed);
        if (failures_of_test)
            std::printf("%s: failed\n", test.name);
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
