// SPDX-License-Identifier: Apache-2.0
#pragma once

#define DARTQUANT_VERSION_MAJOR 0
#define DARTQUANT_VERSION_MINOR 1
#define DARTQUANT_VERSION_PATCH 0
