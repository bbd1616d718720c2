// SPDX-License-Identifier: Apache-2.0
//
// The optimizers against each other, in CPU time of one thread, as one JSON object per line.
//
//   bench_optimizers rivals CHANNELS ROWS [STEPS]
//   bench_optimizers rivals MODEL IDS.npy ROWS [STEPS]
//       QR-Orth, Procrustes and Cayley SGD on synthetic activations or those of a model, QR-Orth and Cayley
//       with the best of a grid of steps: loss per channel against time, and when the first two pass what
//       Cayley reaches in all of its steps (time_ratio -1: never); and both at one rate, the paper's 2e-3.
//   bench_optimizers recipe CHANNELS ROWS
//   bench_optimizers recipe MODEL IDS.npy ROWS
//       The paper's recipe, QR-Orth with momentum on 100 batches of ROWS rows (131072 in the paper), against
//       the Procrustes fixed point on far fewer of the same rows: Whip per channel of all rows, and times.
//       The step of the recipe is the best of a grid on a sixteenth of the rows.
//       `times_to_paper` scales the recipe's time to 131072 rows where ROWS are fewer.
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/procrustes.hpp>
#include <dartquant/calibrate/sample.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/model/forward.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace {

namespace dq = dartquant;
using dq::index_t;
using Matrix = dq::RowMatrix<float>;

double cpu_seconds() {
  std::timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Rows of unit RMS: Laplace values mixed by a random rotation of a decaying spectrum, on them two percent of
/// channels that are 8 to 30 times as large in every token, with a sign of their own.
Matrix synthetic(dq::Cpu const& cpu, index_t tokens, index_t channels) {
  dq::Philox const random(1);
  Matrix Z(tokens, channels), X(tokens, channels);
  for (index_t i = 0; i < Z.size(); ++i) {
    double const u = random.uniform(static_cast<std::uint64_t>(i)) - 0.5;
    double const size = std::pow(1.0 + static_cast<double>(i % channels), -0.3);
    Z.data()[i] = static_cast<float>(size * std::copysign(std::log(1 - 2 * std::abs(u) + 1e-9), -u));
  }
  Matrix const mix = dq::haar_rotation(channels, 2).cast<float>();
  cpu.gemm<float>(1, Z, dq::Op::none, mix, dq::Op::none, 0, X);
  for (index_t c = 7; c < channels; c += 50) {
    float const size =
        8.0f + 22.0f * static_cast<float>(dq::Philox(3).uniform(static_cast<std::uint64_t>(c)));
    X.col(c) = size * (X.col(c).array() + (c % 4 == 3 ? 0.3f : -0.3f));
  }
  cpu.normalize_rows<float>(X);
  return X;
}

/// The pooled R1 sample of a model: the q_proj and up_proj inputs of all layers.
Matrix captured(dq::Cpu const& cpu, std::string const& folder, std::string const& ids, index_t rows) {
  dq::Model const model = dq::Model::open(folder);
  dq::TokenWindows const windows =
      dq::windows_of(dq::read_npy_integers(ids), std::min<index_t>(256, model.config().positions), 0);
  dq::ActivationSample sample(model.config().hidden, rows, 1);
  dq::ForwardOptions options;
  options.gains = dq::NormGains::folded;
  options.observer = [&](dq::Site site, index_t layer, index_t first, dq::MatrixView<float const> X) {
    index_t const source = 2 * layer + (site == dq::Site::up_proj_input ? 1 : 0);
    if (site == dq::Site::q_proj_input || site == dq::Site::up_proj_input)
      sample.add(X, static_cast<std::uint64_t>(source * windows.size() + first));
  };
  static_cast<void>(dq::hidden_states(cpu, model, windows, options));
  return sample.rows();
}

struct Point {
  double seconds, loss;
};
struct Curve {
  std::string name;
  double relative_step = 0;
  std::vector<Point> points{};
  double best = std::numeric_limits<double>::infinity();
  dq::RowMatrix<double> rotation{};
};

/// The loss per channel after each epoch against CPU time, the start of the calibration included.
template <class Optimizer>
Curve run(dq::Cpu const& cpu, std::string name, Matrix const& X,
          dq::CalibrationOptions<dq::Whip, Optimizer> options) {
  Curve curve{std::move(name), options.relative_step};
  double const n = static_cast<double>(X.cols()), started = cpu_seconds();
  options.progress = [&](dq::CalibrationProgress const& epoch) {
    curve.points.push_back({cpu_seconds() - started, epoch.loss / n});
  };
  dq::Calibration found = dq::calibrate_rotation(cpu, X, options);
  curve.best = found.best_loss_per_channel();
  curve.rotation = std::move(found.rotation);
  return curve;
}

/// The best of a grid of steps: the lowest loss at the end.
template <class Optimizer>
Curve tuned(dq::Cpu const& cpu, std::string const& name, Matrix const& X,
            dq::CalibrationOptions<dq::Whip, Optimizer> options, std::span<double const> grid) {
  Curve best;
  for (double const relative_step : grid) {
    options.relative_step = relative_step;
    Curve curve = run(cpu, name, X, options);
    if (curve.best < best.best) best = std::move(curve);
  }
  return best;
}

void print(Curve const& curve, index_t channels, index_t rows) {
  std::printf(
      "{\"name\": \"%s\", \"channels\": %td, \"rows\": %td, \"relative_step\": %g, \"steps\": %zu, "
      "\"seconds_per_step\": %.6g, \"best\": %.6f, \"curve\": [",
      curve.name.c_str(), channels, rows, curve.relative_step, curve.points.size(),
      curve.points.back().seconds / static_cast<double>(curve.points.size()), curve.best);
  for (std::size_t i = 0; i < curve.points.size(); ++i)
    std::printf("%s[%.5g, %.6f]", i == 0 ? "" : ", ", curve.points[i].seconds, curve.points[i].loss);
  std::printf("]}\n");
  std::fflush(stdout);
}

/// The first epoch, from 1, at or below `loss`; 0: none.
std::size_t reaches(Curve const& curve, double loss) {
  for (std::size_t i = 0; i < curve.points.size(); ++i)
    if (curve.points[i].loss <= loss) return i + 1;
  return 0;
}

/// When the fastest of `ours` passes what `other` reached at its end.
void compare(std::span<Curve const> ours, Curve const& other, index_t channels, index_t rows) {
  double const goal = other.points.back().loss, whole = other.points.back().seconds;
  double seconds = -1;
  std::size_t taken = 0;
  for (Curve const& curve : ours)
    if (std::size_t const step = reaches(curve, goal);
        step > 0 && (seconds < 0 || curve.points[step - 1].seconds < seconds)) {
      seconds = curve.points[step - 1].seconds;
      taken = step;
    }
  std::printf(
      "{\"name\": \"%s\", \"against\": \"%s\", \"channels\": %td, \"rows\": %td, \"goal\": %.6f, "
      "\"steps\": %zu, \"steps_of_rival\": %zu, \"time_ratio\": %.4f}\n",
      ours.front().name.c_str(), other.name.c_str(), channels, rows, goal, taken, other.points.size(),
      taken > 0 ? seconds / whole : -1.0);
}

constexpr double grid[] = {0.02, 0.05, 0.1, 0.2, 0.4, 0.8};

void rivals(dq::Cpu const& cpu, Matrix const& X, index_t steps) {
  index_t const channels = X.cols(), rows = X.rows();
  auto const options = [&]<class Optimizer>(Optimizer const& optimizer) {
    return dq::CalibrationOptions<dq::Whip, Optimizer>{.optimizer = optimizer,
                                                       .epochs = steps,
                                                       .batch_rows = rows,
                                                       .schedule = dq::Schedule::constant,
                                                       .seed = 1};
  };
  // As SpinQuant sets it, for a loss per channel: rate 1.5, no momentum, 5 iterations, cosine.
  auto published = options(dq::Cayley{.momentum = 0});
  published.learning_rate = 1.5f / static_cast<float>(channels);
  published.schedule = dq::Schedule::cosine;
  auto at_papers_rate = [&]<class Optimizer>(std::string const& name, Optimizer const& optimizer) {
    auto same = options(optimizer);
    same.learning_rate = 2e-3f;
    return run(cpu, name, X, same);
  };
  std::vector<Curve> const others{
      tuned(cpu, "Cayley, 2 iterations, 1-norm", X, options(dq::Cayley{.iterations = 2}), grid),
      tuned(cpu, "Cayley, 2 iterations, spectral norm", X,
            options(dq::Cayley{.iterations = 2, .limit = dq::StepLimit::spectral}), grid),
      run(cpu, "Cayley, rate 1.5 per channel, cosine", X, published),
      at_papers_rate("Cayley, 2 iterations, 1-norm, rate 2e-3", dq::Cayley{.iterations = 2})};
  for (Curve const& other : others) print(other, channels, rows);
  std::vector<Curve> ours;
  for (double const relative_step : grid) {
    auto one = options(dq::Sgd{});
    one.relative_step = relative_step;
    ours.push_back(run(cpu, "QR-Orth", X, one));
    print(ours.back(), channels, rows);
  }
  ours.push_back(at_papers_rate("QR-Orth, rate 2e-3", dq::Sgd{}));
  print(ours.back(), channels, rows);
  auto one = options(dq::Procrustes{.stop = 0});
  ours.push_back(run(cpu, "Procrustes", X, one));
  print(ours.back(), channels, rows);
  compare(std::span(ours).last(2).first(1), others.back(), channels, rows);
  for (Curve const& other : others) {
    compare(std::span(ours).first(ours.size() - 1), other, channels, rows);
    compare(std::span(ours).last(1), other, channels, rows);
  }
}

double whip(dq::Cpu const& cpu, Matrix const& X, dq::RowMatrix<double> const& R) {
  return dq::loss_per_channel(cpu, dq::apply(cpu, R, X));
}

/// One way to spend few rows.
struct Candidate {
  char const* name;
  index_t rows, batch_rows, epochs;  ///< epochs 0: the default
};

void recipe(dq::Cpu const& cpu, std::string const& name, Matrix const& pool, index_t rows) {
  index_t const channels = pool.cols();
  auto const order = dq::sample_without_replacement(pool.rows(), pool.rows(), dq::Philox(9));
  Matrix X(pool.rows(), channels);
  cpu.gather_rows<float>(pool, dq::VectorView<index_t const>(order.data(), pool.rows()), X);
  index_t const batch = std::min(rows, X.rows()), batches = (X.rows() + batch - 1) / batch;
  constexpr double few[] = {0.1, 0.2, 0.3, 0.4, 0.6};
  dq::CalibrationOptions<dq::Whip, dq::Sgd> published{
      .epochs = 100 / batches, .batch_rows = batch, .schedule = dq::Schedule::constant, .seed = 1};
  published.relative_step =
      tuned(cpu, "recipe", X.topRows(std::max<index_t>(1, X.rows() / 16)), published, few).relative_step;
  Curve const paper = run(cpu, "recipe", X, published);
  print(paper, channels, batch);
  double const goal = whip(cpu, X, paper.rotation), whole = paper.points.back().seconds;
  double const to_paper = 131072.0 / static_cast<double>(batch);
  std::printf(
      "{\"data\": \"%s\", \"channels\": %td, \"rows\": %td, \"start\": %.6f, \"goal\": %.6f, "
      "\"recipe_seconds\": %.3f, \"times_to_paper\": %.2f}\n",
      name.c_str(), channels, X.rows(), whip(cpu, X, dq::random_hadamard(channels, 1)), goal, whole,
      to_paper);
  for (Candidate const& one :
       {Candidate{"default", 65536, 4096, 0}, Candidate{"8 x 4096", 32768, 4096, 1},
        Candidate{"16 x 4096", 65536, 4096, 1}, Candidate{"30 x 8192 of 8192", 8192, 8192, 30},
        Candidate{"24 x 2048", 49152, 2048, 1}, Candidate{"40 x 4096 of 8192", 8192, 4096, 20}}) {
    double const started = cpu_seconds();
    dq::Calibration const found =
        dq::calibrate_rotation(cpu, X.topRows(std::min(one.rows, X.rows())),
                               dq::CalibrationOptions<dq::Whip, dq::Procrustes>{
                                   .epochs = one.epochs, .batch_rows = one.batch_rows, .seed = 1});
    double const seconds = cpu_seconds() - started, loss = whip(cpu, X, found.rotation);
    std::printf(
        "{\"candidate\": \"%s\", \"steps\": %td, \"loss\": %.6f, \"reaches\": %s, \"seconds\": %.4f, "
        "\"ratio\": %.4f, \"ratio_to_paper\": %.5f}\n",
        one.name, found.steps, loss, loss <= goal ? "true" : "false", seconds, seconds / whole,
        seconds / whole / to_paper);
    std::fflush(stdout);
  }
}

int start(std::vector<std::string> const& words) {
  dq::Cpu const cpu(1);
  auto const number = [&](std::size_t i) { return static_cast<index_t>(std::stoll(words.at(i))); };
  if (words.size() >= 3 && words[0] == "rivals") {
    bool const of_model = words.size() >= 4 && words[1].find_first_not_of("0123456789") != std::string::npos;
    std::size_t const last = of_model ? 4 : 3;
    Matrix const X =
        of_model ? captured(cpu, words[1], words[2], number(3)) : synthetic(cpu, number(2), number(1));
    rivals(cpu, X, words.size() > last ? number(last) : 100);
  } else if (words.size() == 3 && words[0] == "recipe") {
    recipe(cpu, "synthetic", synthetic(cpu, number(2), number(1)), number(2));
  } else if (words.size() == 4 && words[0] == "recipe") {
    recipe(cpu, words[1], captured(cpu, words[1], words[2], number(3)), number(3));
  } else {
    std::fputs(
        "bench_optimizers rivals CHANNELS ROWS [STEPS] | rivals MODEL IDS.npy ROWS [STEPS] | recipe CHANNELS "
        "ROWS | recipe MODEL IDS.npy ROWS\n",
        stderr);
    return 2;
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return start({words + 1, words + count});
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
