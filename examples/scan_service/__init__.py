# SPDX-License-Identifier: Apache-2.0
"""A scan service whose users share a budget across worker processes."""
