// SPDX-License-Identifier: Apache-2.0
// What the processor, the operating system and this build can run. Compiled without special flags.

#include "cpu/detect.hpp"

#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/status.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif

namespace dartquant::cpu {
namespace {

constexpr std::uint32_t bit(dartquant_isa isa) { return 1u << isa; }

#if defined(__x86_64__) || defined(_M_X64)

struct CpuidLeaf {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
};

CpuidLeaf cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidLeaf found;
  __get_cpuid_count(leaf, subleaf, &found.a, &found.b, &found.c,
                    &found.d);  // leaves zeros where there is none
  return found;
}

/// The register states that the operating system saves: XCR0.
std::uint64_t saved_states() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

#if defined(__linux__)
constexpr long get_permitted_states = 0x1022, request_state = 0x1023, tile_data = 18;  // of arch_prctl

bool tiles_permitted() {
  std::uint64_t permitted = 0;
  return syscall(SYS_arch_prctl, get_permitted_states, &permitted) == 0 && (permitted >> tile_data & 1) != 0;
}
bool request_tiles() { return syscall(SYS_arch_prctl, request_state, tile_data) == 0; }
#else
bool tiles_permitted() { return false; }
bool request_tiles() { return false; }
#endif

/// `tiles`: whether the process may use AMX.
std::uint32_t supported_here(bool tiles) {
  auto const has = [](std::uint32_t word, int index) { return (word >> index & 1) != 0; };
  std::uint32_t found = bit(dartquant_isa_portable);
  CpuidLeaf const one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  if (!has(one.c, 27)) return found;  // no xgetbv
  std::uint64_t const states = saved_states();
  bool const ymm = (states & 0x6) == 0x6, zmm = (states & 0xE6) == 0xE6;
  if (!ymm || !has(one.c, 12) || !has(one.c, 29) || !has(seven.b, 5)) return found;  // FMA, F16C, AVX2
  found |= bit(dartquant_isa_avx2);
  if (has(seven_one.a, 4)) found |= bit(dartquant_isa_avx_vnni);
  bool const avx512 =
      has(seven.b, 16) && has(seven.b, 17) && has(seven.b, 30) && has(seven.b, 31);  // F DQ BW VL
  if (!zmm || !avx512 || !has(seven.c, 11)) return found;
  found |= bit(dartquant_isa_avx512_vnni);
  bool const tile_states = (states >> 17 & 3) == 3;
  if (tiles && tile_states && has(seven.d, 24) && has(seven.d, 25)) found |= bit(dartquant_isa_amx_int8);
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

bool tiles_permitted() { return false; }
bool request_tiles() { return false; }

std::uint32_t supported_here(bool) {
  constexpr unsigned long dot_product = 1ul << 20, matrix_int8 = 1ul << 13;  // of AT_HWCAP and AT_HWCAP2
  std::uint32_t found = bit(dartquant_isa_portable);
  if ((getauxval(AT_HWCAP) & dot_product) == 0) return found;
  found |= bit(dartquant_isa_neon_dotprod);
  if ((getauxval(AT_HWCAP2) & matrix_int8) != 0) found |= bit(dartquant_isa_neon_i8mm);
  return found;
}

#else

bool tiles_permitted() { return false; }
bool request_tiles() { return false; }
std::uint32_t supported_here(bool) { return bit(dartquant_isa_portable); }

#endif

constexpr std::uint32_t cpu_tag = 0x44514331;  // "DQC1"

}  // namespace

Kernels kernels_of(dartquant_cpu const* cpu) {
  if (cpu->tag != cpu_tag || cpu->chosen >= dartquant_isa_count || (cpu->supported >> cpu->chosen & 1) == 0)
    return {};
  switch (static_cast<dartquant_isa>(cpu->chosen)) {
#if defined(__x86_64__) || defined(_M_X64)
    case dartquant_isa_avx2:
      return {&avx2_rows, &avx2_products, &avx2_tiles};
    case dartquant_isa_avx_vnni:
      return {&avx2_rows, &avx_vnni_products, &avx2_tiles};
    case dartquant_isa_avx512_vnni:
      return {&avx512_rows, &avx512_vnni_products, &avx512_tiles};
    case dartquant_isa_amx_int8:
      return {&avx512_rows, &amx_int8_products, &avx512_tiles};
#elif defined(__aarch64__) || defined(_M_ARM64)
    case dartquant_isa_neon_dotprod:
      return {&neon_rows, &neon_dotprod_products};
    case dartquant_isa_neon_i8mm:
      return {&neon_rows, &neon_i8mm_products};
#endif
    default:
      return {&portable_rows, &portable_products};
  }
}

}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_cpu_detect(dartquant_cpu* cpu) {
  if (cpu == nullptr) return status(dartquant_arg_cpu, dartquant_null);
  std::uint32_t const supported = supported_here(tiles_permitted());
  std::uint32_t best = dartquant_isa_count - 1;
  while ((supported >> best & 1) == 0)
    --best;  // enumerators of one architecture are ordered; portable is always there
  *cpu = {cpu_tag, best, supported, 0};
  return 0;
}

dartquant_status dartquant_cpu_choose(dartquant_cpu* cpu, dartquant_isa isa) {
  if (cpu == nullptr) return status(dartquant_arg_cpu, dartquant_null);
  if (cpu->tag != cpu_tag) return status(dartquant_arg_cpu, dartquant_bad_value);
  if (dartquant_cpu_supports(cpu, isa) == 0) return status(dartquant_arg_isa, dartquant_unsupported);
  cpu->chosen = static_cast<std::uint32_t>(isa);
  return 0;
}

std::int32_t dartquant_cpu_supports(dartquant_cpu const* cpu, dartquant_isa isa) {
  auto const index = static_cast<std::uint32_t>(isa);
  return cpu != nullptr && cpu->tag == cpu_tag && index < dartquant_isa_count &&
         (cpu->supported >> index & 1) != 0;
}

char const* dartquant_isa_name(dartquant_isa isa) {
  switch (isa) {
    case dartquant_isa_portable:
      return "portable";
    case dartquant_isa_avx2:
      return "avx2";
    case dartquant_isa_avx_vnni:
      return "avx_vnni";
    case dartquant_isa_avx512_vnni:
      return "avx512_vnni";
    case dartquant_isa_amx_int8:
      return "amx_int8";
    case dartquant_isa_neon_dotprod:
      return "neon_dotprod";
    case dartquant_isa_neon_i8mm:
      return "neon_i8mm";
  }
  return "unknown";
}

dartquant_status dartquant_amx_request(void) {
  if (tiles_permitted()) return 0;
  bool const here = (supported_here(true) >> dartquant_isa_amx_int8 & 1) != 0;
  return here && request_tiles() ? 0 : status(dartquant_arg_isa, dartquant_unsupported);
}
