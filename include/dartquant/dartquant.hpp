// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/version.hpp>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/butterfly.hpp>
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/cpu_factorization.hpp>
#include <dartquant/core/cpu_kernels.hpp>
#include <dartquant/core/cpu_rows.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/core/host_products.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/parallel.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

#include <dartquant/transform/block_rotation.hpp>
#include <dartquant/transform/duquant.hpp>
#include <dartquant/transform/greedy_rotation.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/hadamard_matrix.hpp>
#include <dartquant/transform/paley.hpp>
#include <dartquant/transform/permutation.hpp>
#include <dartquant/transform/rotation.hpp>
#include <dartquant/transform/smoothing.hpp>
#include <dartquant/transform/transform.hpp>
#include <dartquant/transform/williamson.hpp>

#include <dartquant/quant/clip_search.hpp>
#include <dartquant/quant/fake_quantize.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/gptq.hpp>
#include <dartquant/quant/gptq_factor.hpp>
#include <dartquant/quant/granularity.hpp>
#include <dartquant/quant/hessian.hpp>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/learned_clip.hpp>
#include <dartquant/quant/matmul.hpp>
#include <dartquant/quant/matmul_packed.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/packed.hpp>
#include <dartquant/quant/quantization_error.hpp>
#include <dartquant/quant/quantize.hpp>
#include <dartquant/quant/row_kernels.hpp>
#include <dartquant/quant/scale.hpp>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/descent.hpp>
#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/output_error.hpp>
#include <dartquant/calibrate/polar_factor.hpp>
#include <dartquant/calibrate/procrustes.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/calibrate/rotated_batch.hpp>
#include <dartquant/calibrate/sample.hpp>

#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/checkpoint.hpp>
#include <dartquant/io/gguf.hpp>
#include <dartquant/io/mapped_file.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/io/sha256.hpp>
#include <dartquant/io/tensor.hpp>
#include <dartquant/io/tensor_file.hpp>
#include <dartquant/io/tensor_writer.hpp>
#include <dartquant/io/tokenizer.hpp>

#include <dartquant/model/architecture.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/method.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantization_errors.hpp>
#include <dartquant/model/quantized_folder.hpp>
#include <dartquant/model/rotations.hpp>
#include <dartquant/model/site_statistics.hpp>
