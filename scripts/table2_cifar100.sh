#!/usr/bin/env bash
# Table 2: 1-bit ResNet56 and ResNet110 on CIFAR-100. A command per row, which trains all its trials; the published number in its
# comment: mean (population variance) of the test accuracy over the last 10 epochs of all trials, as printed. Settings are those
# of the published logs; what differs from main.py's defaults stands in the row.
# -ad 61: six of the STE baselines were logged with a single drop of the learning rate, after 61 epochs. With the schedule of all
# other runs: main.py tables run table2 -meta STE --set lr-adjust=30
#   bash scripts/table2_cifar100.sh [--dry-run]
# scripts/rows.sh says what base, row and finish do, and which environment variables they heed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/rows.sh

# ResNet56, full precision 71.22
base ResNet56 CIFAR100
row -m ResNet56 -d CIFAR100 -q dorefa -o SGD  -meta STE                                # 42.265 (8.143)
row -m ResNet56 -d CIFAR100 -q dorefa -o SGD  -meta MultiFC                            # 65.791 (0.415)
row -m ResNet56 -d CIFAR100 -q dorefa -o SGD  -meta LSTMFC                             # 63.645 (2.183)
row -m ResNet56 -d CIFAR100 -q dorefa -o SGD  -meta FC-Grad                            # 64.351 (0.935)
row -m ResNet56 -d CIFAR100 -q dorefa -o Adam -meta STE                                # 66.419 (0.533)
row -m ResNet56 -d CIFAR100 -q dorefa -o Adam -meta MultiFC                            # 66.588 (0.375)
row -m ResNet56 -d CIFAR100 -q dorefa -o Adam -meta LSTMFC                             # 66.483 (0.793)
row -m ResNet56 -d CIFAR100 -q dorefa -o Adam -meta FC-Grad                            # 66.564 (0.351)
row -m ResNet56 -d CIFAR100 -q BWN    -o SGD  -meta STE     -ad 61                     # 34.479 (11.737)
row -m ResNet56 -d CIFAR100 -q BWN    -o SGD  -meta LSTMFC                             # 63.346 (2.253)
row -m ResNet56 -d CIFAR100 -q BWN    -o SGD  -meta FC-Grad                            # 64.402 (1.434)
row -m ResNet56 -d CIFAR100 -q BWN    -o Adam -meta STE     -ad 61                     # 64.297 (1.309)
row -m ResNet56 -d CIFAR100 -q BWN    -o Adam -meta LSTMFC                             # 66.584 (0.349)
row -m ResNet56 -d CIFAR100 -q BWN    -o Adam -meta FC-Grad                            # 67.018 (0.329)

# ResNet110, full precision 72.54
base ResNet110 CIFAR100
row -m ResNet110 -d CIFAR100 -q dorefa -o SGD  -meta STE     -ad 61                    # 43.419 (18.902)
row -m ResNet110 -d CIFAR100 -q dorefa -o SGD  -meta MultiFC                           # 68.269 (0.136)
row -m ResNet110 -d CIFAR100 -q dorefa -o SGD  -meta LSTMFC                            # 64.753 (2.850)
row -m ResNet110 -d CIFAR100 -q dorefa -o SGD  -meta FC-Grad                           # 66.145 (2.490)
row -m ResNet110 -d CIFAR100 -q dorefa -o Adam -meta STE     -ad 61                    # 66.836 (1.198)
row -m ResNet110 -d CIFAR100 -q dorefa -o Adam -meta MultiFC                           # 68.418 (0.235)
row -m ResNet110 -d CIFAR100 -q dorefa -o Adam -meta LSTMFC                            # 67.138 (1.286)
row -m ResNet110 -d CIFAR100 -q dorefa -o Adam -meta FC-Grad                           # 68.741 (0.363)
row -m ResNet110 -d CIFAR100 -q BWN    -o SGD  -meta STE     -ad 61                    # 35.227 (19.408)
row -m ResNet110 -d CIFAR100 -q BWN    -o SGD  -meta LSTMFC                            # 66.242 (2.979)
row -m ResNet110 -d CIFAR100 -q BWN    -o SGD  -meta FC-Grad                           # 64.791 (4.096)
row -m ResNet110 -d CIFAR100 -q BWN    -o Adam -meta STE     -ad 61                    # 66.265 (1.429)
row -m ResNet110 -d CIFAR100 -q BWN    -o Adam -meta LSTMFC                            # 67.767 (1.391)
row -m ResNet110 -d CIFAR100 -q BWN    -o Adam -meta FC-Grad                           # 69.114 (0.181)

finish
