// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/prior.h>

#include <torch/script.h>

namespace gr::unmix {

//! The part of a prior that knows torch.
class prior::impl
{
public:
    impl(torch::jit::Module module, std::string metadata, const std::string& device);

    /*!
     * Posterior means for tensors on the prior's device: x [B, 2, N], alpha_bar [B], side [B, P].
     * Throws std::runtime_error when the module fails or returns another shape.
     */
    at::Tensor denoise(const at::Tensor& x, const at::Tensor& alpha_bar, const at::Tensor& side) const;

    const std::string& metadata() const { return d_metadata; }
    const std::string& device() const { return d_device; }
    prediction predicts() const { return d_predicts; }

private:
    torch::jit::Module d_module;
    std::string d_metadata;
    std::string d_device;
    prediction d_predicts;
};

} // namespace gr::unmix
