#!/usr/bin/env bash
# Figure 3: convergence of 1-bit ResNet20 on CIFAR-10, dorefa, with SGD and with Adam. The runs are those of Table 1, and what is
# done there is not done again. A command per row, which trains all its trials; the published number in its comment: mean
# (population variance) of the test accuracy over the last 10 epochs of all trials, as printed. Settings are those of the
# published logs; what differs from main.py's defaults stands in the row.
#   bash scripts/fig3_convergence.sh [--dry-run]
# scripts/rows.sh says what base, row and finish do, and which environment variables they heed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/rows.sh

# ResNet20, full precision 91.50
base ResNet20 CIFAR10
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD  -meta STE                                 # 80.745 (2.113)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD  -meta MultiFC                             # 88.942 (0.466)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD  -meta LSTMFC                              # 88.305 (0.810)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD  -meta FC-Grad --meta-init identity        # 88.840 (0.291)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o Adam -meta STE                                 # 89.782 (0.172)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o Adam -meta MultiFC                             # 89.941 (0.068)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o Adam -meta LSTMFC                              # 89.979 (0.103)
row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o Adam -meta FC-Grad --meta-init identity        # 89.962 (0.068)

finish
