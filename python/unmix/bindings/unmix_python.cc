// SPDX-License-Identifier: GPL-3.0-or-later
//
// numpy arrays and TorchScript bytes in, numpy arrays out. No torch header: torch bundles another pybind11.
#include <gnuradio/unmix/noise.h>
#include <gnuradio/unmix/prior.h>
#include <gnuradio/unmix/schedule.h>
#include <gnuradio/unmix/separator.h>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <optional>

namespace py = pybind11;
using namespace gr::unmix;

namespace {

template <typename T>
using array = py::array_t<T, py::array::c_style | py::array::forcecast>;
using complex64 = std::complex<float>;

//! A flag that a separation looks at in every step; set from any thread or a signal handler.
struct cancel_flag {
    std::atomic<bool> value{ false };
};

template <typename T>
py::array_t<T> numpy(const std::vector<T>& data, std::vector<py::ssize_t> shape)
{
    py::array_t<T> result(shape);
    std::copy(data.begin(), data.end(), result.mutable_data());
    return result;
}

void expect(bool fits, const char* what)
{
    if (!fits)
        throw std::invalid_argument(what);
}

py::array_t<complex64>
denoise(const prior& p, array<complex64> x, array<float> alpha_bar, std::optional<array<float>> side)
{
    expect(x.ndim() == 2, "x must be complex64 [windows, samples]");
    const auto batch = static_cast<std::size_t>(x.shape(0)), samples = static_cast<std::size_t>(x.shape(1));
    expect(alpha_bar.ndim() == 1 && static_cast<std::size_t>(alpha_bar.shape(0)) == batch,
           "alpha_bar must be float32 [windows]");
    expect(!side || (side->ndim() == 2 && static_cast<std::size_t>(side->shape(0)) == batch),
           "side must be float32 [windows, columns]");
    std::vector<float> planes(2 * batch * samples), result(2 * batch * samples);
    py::array_t<complex64> out({ x.shape(0), x.shape(1) });
    const complex64* in = x.data();
    complex64* to = out.mutable_data();
    {
        const py::gil_scoped_release release;
        for (std::size_t w = 0; w < batch; ++w)
            for (std::size_t i = 0; i < samples; ++i) {
                planes[2 * w * samples + i] = in[w * samples + i].real();
                planes[(2 * w + 1) * samples + i] = in[w * samples + i].imag();
            }
        p.denoise(planes.data(), alpha_bar.data(), side ? side->data() : nullptr, batch, samples,
                  side ? static_cast<std::size_t>(side->shape(1)) : 0, result.data());
        for (std::size_t w = 0; w < batch; ++w)
            for (std::size_t i = 0; i < samples; ++i)
                to[w * samples + i] = { result[2 * w * samples + i], result[(2 * w + 1) * samples + i] };
    }
    return out;
}

py::array_t<complex64>
noise(std::uint64_t seed, array<std::uint64_t> index, std::uint64_t step, std::uint64_t source, std::size_t samples)
{
    expect(index.ndim() == 1, "index must be uint64 [windows]");
    py::array_t<complex64> out({ index.shape(0), static_cast<py::ssize_t>(samples) });
    complex64* to = out.mutable_data();
    const std::uint64_t* from = index.data();
    const auto windows = static_cast<std::size_t>(index.shape(0));
    const py::gil_scoped_release release;
    window_noise(seed, from, windows, step, source, samples, to);
    return out;
}

//! Arrays of one separation, kept alive while the engine runs, and the engine's view of them.
struct arguments {
    array<complex64> mixture, initial;
    array<float> gains;
    std::vector<std::optional<array<float>>> side;
    std::optional<array<float>> noise;
    array<std::uint64_t> index;
    mixtures view;
    control ctl;
};

arguments collect(array<complex64> mixture,
                  const std::vector<std::shared_ptr<prior>>& priors,
                  array<float> gains,
                  array<complex64> initial,
                  std::vector<std::optional<array<float>>> side,
                  std::optional<array<float>> noise,
                  array<std::uint64_t> index,
                  std::uint64_t seed,
                  std::size_t batch,
                  std::size_t threads,
                  std::size_t block,
                  const std::optional<py::function>& progress,
                  const cancel_flag* cancel)
{
    expect(mixture.ndim() == 2, "the mixture must be complex64 [windows, samples]");
    const auto windows = mixture.shape(0), samples = mixture.shape(1);
    const auto sources = static_cast<py::ssize_t>(priors.size());
    expect(gains.ndim() == 2 && gains.shape(0) == windows && gains.shape(1) == sources,
           "gains must be float32 [windows, sources]");
    expect(initial.ndim() == 3 && initial.shape(0) == sources && initial.shape(1) == windows &&
               initial.shape(2) == samples,
           "initial must be complex64 [sources, windows, samples]");
    expect(static_cast<py::ssize_t>(side.size()) == sources, "side needs one entry per source, None for none");
    expect(index.ndim() == 1 && index.shape(0) == windows, "index must be uint64 [windows]");
    expect(!noise || (noise->ndim() == 1 && noise->shape(0) == windows), "noise must be float32 [windows]");
    arguments a{ mixture, initial, gains, std::move(side), noise, index, {}, {} };
    a.view.windows = static_cast<std::size_t>(windows);
    a.view.samples = static_cast<std::size_t>(samples);
    a.view.priors = priors;
    a.view.mixture = a.mixture.data();
    a.view.initial = a.initial.data();
    a.view.gains = a.gains.data();
    for (const auto& s : a.side) {
        expect(!s || (s->ndim() == 2 && s->shape(0) == windows), "side information must be float32 [windows, columns]");
        a.view.side.push_back(s ? s->data() : nullptr);
        a.view.side_width.push_back(s ? static_cast<std::size_t>(s->shape(1)) : 0);
    }
    a.view.noise = a.noise ? a.noise->data() : nullptr;
    a.view.index = a.index.data();
    a.ctl.seed = seed;
    a.ctl.batch = batch;
    a.ctl.threads = threads;
    a.ctl.block = block;
    a.ctl.cancel = cancel ? &cancel->value : nullptr;
    if (progress)
        a.ctl.progress = [call = *progress](double fraction, std::size_t windows_done) {
            const py::gil_scoped_acquire acquire;
            const py::object go_on = call(fraction, windows_done);
            return go_on.is_none() || go_on.cast<bool>();
        };
    return a;
}

template <typename Run>
py::dict separated(arguments& a, Run run)
{
    separation s;
    {
        const py::gil_scoped_release release;
        s = run(a.view, a.ctl);
    }
    const auto windows = static_cast<py::ssize_t>(a.view.windows), samples = static_cast<py::ssize_t>(a.view.samples);
    const auto sources = static_cast<py::ssize_t>(a.view.priors.size()), blocks = static_cast<py::ssize_t>(s.blocks);
    std::vector<std::uint8_t> outcomes;
    for (const auto o : s.outcomes)
        outcomes.push_back(static_cast<std::uint8_t>(o));
    py::dict result;
    result["sources"] = numpy(s.sources, { sources, windows, samples });
    result["gains"] = numpy(s.gains, { windows, sources });
    result["disagreement"] = numpy(s.disagreement, { windows, blocks });
    result["calls"] = numpy(s.calls, { windows });
    result["outcomes"] = numpy(outcomes, { windows });
    return result;
}

} // namespace

PYBIND11_MODULE(unmix_python, m)
{
    m.doc() = "The gr-unmix engine: noise schedule, TorchScript priors, alpha-RGS and Douglas-Rachford separators.";

    py::class_<noise_schedule>(m, "NoiseSchedule", "Noise levels abar_t = prod (1 - beta_i), beta linearly spaced.")
        .def(py::init<double, double, int>(), py::arg("beta_min") = 1e-4, py::arg("beta_max") = 0.05,
             py::arg("steps") = 50)
        .def_property_readonly("steps", &noise_schedule::steps)
        .def("alpha_bar", &noise_schedule::alpha_bar, py::arg("t"));
    m.def("cosine_anneal", &cosine_anneal, py::arg("first"), py::arg("last"), py::arg("step"), py::arg("steps"));
    m.def("agreement_threshold", &agreement_threshold, py::arg("agreement"), py::arg("median_disagreement"),
          py::arg("noise"), "Disagreement below which a block counts as solved, relative to the SOI's power.");
    m.def("window_noise", &noise, py::arg("seed"), py::arg("index"), py::arg("step"), py::arg("source"),
          py::arg("samples"),
          "The noise that separators inject, N(0, 1) per real channel: complex64 [windows, samples], decided by seed, "
          "each window's index, step and source.");
    m.def("cuda_available", &cuda_available, "True when the engine has CUDA kernels and torch finds a GPU.");

    py::class_<cancel_flag>(m, "CancelFlag", "Set from any thread; a separation looks at it in every step.")
        .def(py::init<>())
        .def("set", [](cancel_flag& f) { f.value = true; })
        .def("clear", [](cancel_flag& f) { f.value = false; })
        .def("is_set", [](const cancel_flag& f) { return f.value.load(); });

    py::class_<prior, std::shared_ptr<prior>>(m, "Prior", "A TorchScript prior with its embedded prior.json.")
        .def_static("from_file", &prior::from_file, py::arg("path"), py::arg("device") = "cpu")
        .def_static(
            "from_bytes",
            [](const py::bytes& data, const std::string& device) { return prior::from_bytes(data, device); },
            py::arg("data"), py::arg("device") = "cpu")
        .def_property_readonly("metadata", &prior::metadata)
        .def_property_readonly("device", &prior::device)
        .def_property_readonly("predicts",
                               [](const prior& p) { return p.predicts() == prediction::noise ? "noise" : "signal"; })
        .def("denoise", &denoise, py::arg("x"), py::arg("alpha_bar"), py::arg("side") = py::none(),
             "Posterior means of x for noisy windows, complex64 [windows, samples].");

    py::enum_<outcome>(m, "Outcome", "How a window ended.")
        .value("UNTOUCHED", outcome::untouched)
        .value("CANCELLED", outcome::cancelled)
        .value("STEPS_USED", outcome::steps_used)
        .value("AGREED", outcome::agreed)
        .value("DIVERGED", outcome::diverged);

#define UNMIX_COMMON_ARGUMENTS                                                                                         \
    py::arg("mixture"), py::arg("priors"), py::arg("gains"), py::arg("initial"), py::arg("side"),                      \
        py::arg("noise") = py::none(), py::arg("index"), py::kw_only(), py::arg("seed") = 0, py::arg("batch") = 64,    \
        py::arg("threads") = 0, py::arg("block") = 16, py::arg("progress") = py::none(),                               \
        py::arg("cancel") = py::none()
    using priors_type = std::vector<std::shared_ptr<prior>>;
    using side_type = std::vector<std::optional<array<float>>>;

    m.def(
        "alpha_rgs",
        [](array<complex64> mixture, const priors_type& priors, array<float> gains, array<complex64> initial,
           side_type side, std::optional<array<float>> noise, array<std::uint64_t> index, std::uint64_t seed,
           std::size_t batch, std::size_t threads, std::size_t block, std::optional<py::function> progress,
           const cancel_flag* cancel, long steps, double rate_max, double rate_min, std::vector<double> omega,
           int level_min, int level_max, int level_max_last, double weight_cap, bool equal_levels) {
            auto a = collect(mixture, priors, gains, initial, std::move(side), noise, index, seed, batch, threads,
                             block, progress, cancel);
            const alpha_rgs_options o{ steps,     rate_max,       rate_min,   omega,       level_min,
                                       level_max, level_max_last, weight_cap, equal_levels };
            return separated(a, [&](const mixtures& in, const control& ctl) { return alpha_rgs(in, o, ctl); });
        },
        UNMIX_COMMON_ARGUMENTS, py::arg("steps") = 20000, py::arg("rate_max") = 5e-3, py::arg("rate_min") = 1e-6,
        py::arg("omega") = std::vector<double>{}, py::arg("level_min") = 1, py::arg("level_max") = 49,
        py::arg("level_max_last") = 49, py::arg("weight_cap") = 0.0,
        py::arg("equal_levels") = false,
        "alpha-RGS, Algorithm 1 of arXiv 2306.14411 with the sign of equation (10).");

    m.def(
        "pnp_dr",
        [](array<complex64> mixture, const priors_type& priors, array<float> gains, array<complex64> initial,
           side_type side, std::optional<array<float>> noise, array<std::uint64_t> index, std::uint64_t seed,
           std::size_t batch, std::size_t threads, std::size_t block, std::optional<py::function> progress,
           const cancel_flag* cancel, int steps, std::vector<double> v, double relaxation, double agreement,
           bool refine_gains, std::size_t margin) {
            auto a = collect(mixture, priors, gains, initial, std::move(side), noise, index, seed, batch, threads,
                             block, progress, cancel);
            const pnp_dr_options o{ steps, v, relaxation, agreement, refine_gains, margin };
            return separated(a, [&](const mixtures& in, const control& ctl) { return pnp_dr(in, o, ctl); });
        },
        UNMIX_COMMON_ARGUMENTS, py::arg("steps") = 100, py::arg("v") = std::vector<double>{},
        py::arg("relaxation") = 1.0, py::arg("agreement") = 0.01, py::arg("refine_gains") = true, py::arg("margin") = 0,
        "Plug-and-play Douglas-Rachford splitting with the priors' posterior means.");
#undef UNMIX_COMMON_ARGUMENTS
}
