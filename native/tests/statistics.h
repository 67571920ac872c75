// Chi-square tests. With fixed seeds a test passes always or never; ERROR_RATE is the share of seeds with which a
// correct policy would fail one, so a new seed may be chosen without a thought.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace replay::test {

constexpr double ERROR_RATE = 1e-6;

// Probability that a chi-square variable with `freedom` degrees is above `x`: the incomplete gamma function Q at half
// of both, by its series or its continued fraction (Numerical Recipes, 6.2).
inline double chi_square_tail(double x, double freedom) {
    const double a = freedom / 2;
    x /= 2;
    if (x <= 0) return 1;
    const double front = std::exp(-x + a * std::log(x) - std::lgamma(a));
    if (x < a + 1) {
        double term = 1 / a, sum = term;
        for (double n = a + 1; term > sum * 1e-15; ++n) sum += term *= x / n;
        return 1 - sum * front;
    }
    double b = x + 1 - a, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < 10000; ++i) {
        const double an = -i * (i - a);
        b += 2;
        d = 1 / (an * d + b);
        c = b + an / c;
        h *= d * c;
        if (std::fabs(d * c - 1) < 1e-15) break;
    }
    return front * h;
}

// That counts come from independent trials with these probabilities. What cannot happen must not.
inline double multinomial_p_value(const std::vector<uint64_t> &counts, const std::vector<double> &probabilities) {
    double trials = 0, sum = 0;
    int categories = 0;
    for (uint64_t count : counts) trials += static_cast<double>(count);
    for (size_t i = 0; i < counts.size(); ++i) {
        const double expected = trials * probabilities[i], off = static_cast<double>(counts[i]) - expected;
        if (probabilities[i] <= 0) {
            if (counts[i]) return 0;
            continue;
        }
        sum += off * off / expected;
        ++categories;
    }
    return categories < 2 ? 1 : chi_square_tail(sum, categories - 1);
}

// That in each of `samples` every set of `size` out of counts.size() things was equally likely; counts: how many
// samples each thing was in. Things of one sample exclude each other, so the counts scatter less than independent ones.
inline double equal_chance_p_value(const std::vector<uint64_t> &counts, uint64_t samples, double size) {
    const double n = static_cast<double>(counts.size()), share = size / n;
    const double expected = static_cast<double>(samples) * share, variance = expected * (1 - share) * n / (n - 1);
    double sum = 0;
    for (uint64_t count : counts)
        sum += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected);
    return chi_square_tail(sum / variance, n - 1);
}

}  // namespace replay::test
