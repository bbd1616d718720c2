// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dartquant::program {

/// The text as content or attribute of XML 1.0: markup characters become entities; control characters and
/// bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string escape_markup(std::string_view text);

/// A linear or logarithmic map from values to pixels.
class Axis {
 public:
  enum class Kind { linear, logarithmic };

  /// `low` and `high` go to `first` and `last`; a range of no width is widened. Precondition of a logarithmic
  /// one: both above 0.
  Axis(double low, double high, double first, double last, Kind kind = Kind::linear);

  /// Where a value lies; outside values at the nearest end.
  [[nodiscard]] double at(double value) const;
  [[nodiscard]] bool holds(double value) const { return value >= low_ && value <= high_; }
  /// About `count` round values within the range.
  [[nodiscard]] std::vector<double> ticks(int count) const;
  [[nodiscard]] double first() const { return first_; }
  [[nodiscard]] double last() const { return last_; }

 private:
  [[nodiscard]] double position(double value) const;

  double low_, high_, first_, last_;
  Kind kind_;
};

/// The fewest digits that tell neighbouring ticks apart.
[[nodiscard]] std::string format_tick(double value);

/// One picture, built shape by shape. Looks come from the page's style sheet through class names; shapes may
/// carry a tooltip.
class Svg {
 public:
  enum class Anchor { start, middle, end };

  /// `description` is read out where the picture is not seen.
  Svg(double width, double height, std::string_view description);

  void line(double x1, double y1, double x2, double y2, std::string_view look);
  void rect(double x, double y, double width, double height, std::string_view look,
            std::string_view tooltip = {});
  /// A cell of a heat map, `heat` from 0 to 1.
  void cell(double x, double y, double width, double height, double heat, std::string_view tooltip);
  void circle(double x, double y, double radius, std::string_view look, std::string_view tooltip = {});
  void curve(std::vector<std::pair<double, double>> const& points, std::string_view look,
             std::string_view tooltip = {});
  void text(double x, double y, Anchor anchor, std::string_view look, std::string_view content);
  /// Text that rises to the right from its lower left end.
  void slanted_text(double x, double y, std::string_view look, std::string_view content);
  /// Text on a cell: dark on bright heat, bright on dark.
  void cell_text(double x, double y, double heat, std::string_view content);

  /// Grid lines from `top` to `bottom` and their values below.
  void bottom_axis(Axis const& x, double top, double bottom, int count, std::string_view title);
  /// Grid lines from `left` to `right` and their values to the left of them.
  void left_axis(Axis const& y, double left, double right, int count);

  /// The whole element.
  [[nodiscard]] std::string text() const { return body_ + "</svg>\n"; }
  [[nodiscard]] double width() const { return width_; }

 private:
  void close(std::string_view name, std::string_view tooltip);

  double width_;
  std::string body_;
};

/// A colour of a scale from dark to bright in equal steps of lightness, that every kind of colour vision
/// orders alike: "#rrggbb".
[[nodiscard]] std::string heat_color(double heat);

}  // namespace dartquant::program
