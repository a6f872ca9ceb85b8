// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/api.h>

#include <cstddef>
#include <memory>
#include <string>

namespace gr::unmix {

//! What a prior's network returns for a noisy input.
enum class prediction { signal, noise };

/*!
 * \brief A signal's prior: a TorchScript module that answers, for x_t = sqrt(abar) x + sqrt(1 - abar) z, what x was.
 *
 * The module's method is forward(x [B, 2, N], alpha_bar [B], side [B, P]) -> [B, 2, N], float32; real and imaginary
 * part are channels, and the result is either the posterior mean of x or the estimate of z. Its metadata travel in the
 * archive as the extra file prior.json. Safe to use from several threads.
 */
class UNMIX_API prior
{
public:
    //! Load from a file. Throws std::invalid_argument when it is no TorchScript or carries no prior.json.
    static std::shared_ptr<prior> from_file(const std::string& path, const std::string& device = "cpu");

    //! Load from the contents of such a file. Throws std::invalid_argument as from_file.
    static std::shared_ptr<prior> from_bytes(const std::string& bytes, const std::string& device = "cpu");

    ~prior();
    prior(const prior&) = delete;
    prior& operator=(const prior&) = delete;

    //! The text of prior.json.
    const std::string& metadata() const;

    //! The device it was loaded on: "cpu" or "cuda".
    const std::string& device() const;

    //! What the module returns; signal unless prior.json has "predicts": "noise".
    prediction predicts() const;

    /*!
     * \brief Posterior means of x for a batch of windows.
     *
     * \param x [batch, 2, samples], noisy input
     * \param alpha_bar [batch], each in (0, 1)
     * \param side [batch, side_width]; may be null when side_width is 0
     * \param result [batch, 2, samples]
     *
     * Throws std::runtime_error when the module fails or returns another shape.
     */
    void denoise(const float* x,
                 const float* alpha_bar,
                 const float* side,
                 std::size_t batch,
                 std::size_t samples,
                 std::size_t side_width,
                 float* result) const;

    class impl; //!< Knows torch; private to lib/.
    const impl& get() const { return *d_impl; }

private:
    explicit prior(std::unique_ptr<impl> implementation);
    std::unique_ptr<impl> d_impl;
};

//! True when the engine was built with CUDA kernels and torch finds a GPU.
UNMIX_API bool cuda_available();

} // namespace gr::unmix
