// SPDX-License-Identifier: GPL-3.0-or-later
#include "prior_impl.h"

#include "dispatch.h"

#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <stdexcept>

namespace gr::unmix {
namespace {

//! torch's messages carry a stack trace; users want the first line.
std::string first_line(const char* text)
{
    const std::string s(text);
    return s.substr(0, s.find('\n'));
}

//! What a TorchScript module raised: the last line that names an error, behind the interpreter's stack trace.
std::string raised(const char* text)
{
    const std::string s(text);
    const std::size_t error = s.rfind("Error: ");
    if (error == std::string::npos)
        return first_line(text);
    const std::size_t line = s.rfind('\n', error);
    return first_line(s.c_str() + (line == std::string::npos ? 0 : line + 1));
}

//! "predicts" is the one field that the engine itself needs, so a full JSON parser is left to Python.
prediction predicted_by(std::string metadata)
{
    metadata.erase(std::remove_if(metadata.begin(), metadata.end(), [](unsigned char c) { return std::isspace(c); }),
                   metadata.end());
    return metadata.find("\"predicts\":\"noise\"") != std::string::npos ? prediction::noise : prediction::signal;
}

template <typename Source>
std::unique_ptr<prior::impl> load(Source&& source, const std::string& device, const std::string& what)
{
    if (device != "cpu" && device != "cuda")
        throw std::invalid_argument("device '" + device + "' is unknown; allowed are cpu and cuda");
    if (device == "cuda" && !cuda_available())
        throw std::invalid_argument(
            "device cuda is not available: the engine was built without CUDA, or torch finds no GPU");
    torch::jit::ExtraFilesMap extra{ { "prior.json", "" } };
    torch::jit::Module module;
    try {
        module = torch::jit::load(source, torch::Device(device), extra);
    } catch (const std::exception& e) {
        throw std::invalid_argument(what + " is not a TorchScript file: " + first_line(e.what()));
    }
    if (extra["prior.json"].empty())
        throw std::invalid_argument(what +
                                    " is a TorchScript file without prior.json; export it with training/export.py");
    if (!module.find_method("forward"))
        throw std::invalid_argument(what + " is a TorchScript file without a forward method");
    return std::make_unique<prior::impl>(std::move(module), extra["prior.json"], device);
}

} // namespace

prior::impl::impl(torch::jit::Module module, std::string metadata, const std::string& device)
    : d_metadata(std::move(metadata)), d_device(device), d_predicts(predicted_by(d_metadata))
{
    module.eval();
    d_module = torch::jit::freeze(module);
}

at::Tensor prior::impl::denoise(const at::Tensor& x, const at::Tensor& alpha_bar, const at::Tensor& side) const
{
    at::Tensor result;
    try {
        // forward() is not const, but reads only: a copy of the handle shares the frozen graph.
        // On the CPU profiling and specialising cost seconds in the first calls and gain nothing later.
        const torch::jit::GraphOptimizerEnabledGuard optimise(d_device != "cpu");
        torch::jit::Module module = d_module;
        result = module.forward({ x, alpha_bar, side }).toTensor();
    } catch (const std::exception& e) {
        throw std::runtime_error("the prior failed: " + raised(e.what()));
    }
    if (result.sizes() != x.sizes() || result.scalar_type() != at::kFloat) {
        std::ostringstream text;
        text << "the prior returned " << result.sizes() << " " << result.scalar_type() << " for an input of "
             << x.sizes() << " Float; it must return the input's shape and type";
        throw std::runtime_error(text.str());
    }
    result = result.contiguous();
    if (d_predicts == prediction::noise) {
        const at::Tensor levels = alpha_bar.contiguous(), input = x.contiguous();
        const kernel_shape shape{ static_cast<std::size_t>(x.size(0)), static_cast<std::size_t>(x[0].numel()), 1, 0 };
        UNMIX_DISPATCH(x, mean_from_noise)
        (shape, input.const_data_ptr<float>(), levels.const_data_ptr<float>(), result.data_ptr<float>());
    }
    return result;
}

prior::prior(std::unique_ptr<impl> implementation) : d_impl(std::move(implementation))
{
}
prior::~prior() = default;

std::shared_ptr<prior> prior::from_file(const std::string& path, const std::string& device)
{
    return std::shared_ptr<prior>(new prior(load(path, device, "'" + path + "'")));
}

std::shared_ptr<prior> prior::from_bytes(const std::string& bytes, const std::string& device)
{
    std::istringstream stream(bytes);
    return std::shared_ptr<prior>(new prior(load(stream, device, "the prior")));
}

const std::string& prior::metadata() const
{
    return d_impl->metadata();
}
const std::string& prior::device() const
{
    return d_impl->device();
}
prediction prior::predicts() const
{
    return d_impl->predicts();
}

void prior::denoise(const float* x,
                    const float* alpha_bar,
                    const float* side,
                    std::size_t batch,
                    std::size_t samples,
                    std::size_t side_width,
                    float* result) const
{
    const c10::InferenceMode guard;
    const auto b = static_cast<std::int64_t>(batch), n = static_cast<std::int64_t>(samples);
    const auto p = static_cast<std::int64_t>(side_width);
    const torch::Device target(d_impl->device());
    const auto wrap = [&](const float* data, at::IntArrayRef sizes) {
        return at::from_blob(const_cast<float*>(data), sizes, at::kFloat).to(target);
    };
    const at::Tensor sides = p > 0 ? wrap(side, { b, p }) : at::empty({ b, 0 }, at::device(target).dtype(at::kFloat));
    const at::Tensor mean = d_impl->denoise(wrap(x, { b, 2, n }), wrap(alpha_bar, { b }), sides).cpu();
    std::copy_n(mean.const_data_ptr<float>(), mean.numel(), result);
}

bool cuda_available()
{
#ifdef UNMIX_CUDA
    return torch::cuda::is_available();
#else
    return false;
#endif
}

} // namespace gr::unmix
