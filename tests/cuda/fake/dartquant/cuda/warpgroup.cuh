// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stands in for the real header of this name: the meaning of its instructions on the CPU.

#include "support/host_warpgroup.hpp"
