#!/usr/bin/env bash
# Table 1: 1-bit ResNet20, ResNet32 and ResNet44 on CIFAR-10. A command per row, which trains all its trials; the published number
# in its comment: mean (population variance) of the test accuracy over the last 10 epochs of all trials, as printed. Settings are
# those of the published logs; what differs from main.py's defaults stands in the row.
#   bash scripts/table1_cifar10.sh [--dry-run]
# scripts/rows.sh says what base, row and finish do, and which environment variables they heed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/rows.sh

# ResNet20, full precision 91.50
part scripts/table1_resnet20.sh

# ResNet32, full precision 92.13
base ResNet32 CIFAR10
row -m ResNet32 -d CIFAR10 -q dorefa -o SGD  -meta STE                                 # 82.911 (1.680)
row -m ResNet32 -d CIFAR10 -q dorefa -o SGD  -meta MultiFC                             # 89.637 (0.380)
row -m ResNet32 -d CIFAR10 -q dorefa -o SGD  -meta LSTMFC                              # 90.397 (0.149)
row -m ResNet32 -d CIFAR10 -q dorefa -o SGD  -meta FC-Grad                             # 89.934 (0.246)
row -m ResNet32 -d CIFAR10 -q dorefa -o Adam -meta STE                                 # 90.172 (0.077)
row -m ResNet32 -d CIFAR10 -q dorefa -o Adam -meta MultiFC                             # 90.966 (0.064)
row -m ResNet32 -d CIFAR10 -q dorefa -o Adam -meta LSTMFC                              # 90.948 (0.074)
row -m ResNet32 -d CIFAR10 -q dorefa -o Adam -meta FC-Grad                             # 90.976 (0.068)
row -m ResNet32 -d CIFAR10 -q BWN    -o SGD  -meta STE                                 # 79.768 (2.062)
row -m ResNet32 -d CIFAR10 -q BWN    -o SGD  -meta LSTMFC                              # 90.568 (0.169)
row -m ResNet32 -d CIFAR10 -q BWN    -o SGD  -meta FC-Grad                             # 90.241 (0.316)
row -m ResNet32 -d CIFAR10 -q BWN    -o Adam -meta STE                                 # 91.015 (0.087)
row -m ResNet32 -d CIFAR10 -q BWN    -o Adam -meta LSTMFC                              # 91.002 (0.077)
row -m ResNet32 -d CIFAR10 -q BWN    -o Adam -meta FC-Grad                             # 91.034 (0.067)

# ResNet44, full precision 93.56
base ResNet44 CIFAR10
row -m ResNet44 -d CIFAR10 -q dorefa -o SGD  -meta STE                                 # 86.686 (1.020)
row -m ResNet44 -d CIFAR10 -q dorefa -o SGD  -meta MultiFC                             # 90.546 (0.218)
row -m ResNet44 -d CIFAR10 -q dorefa -o SGD  -meta LSTMFC                              # 91.494 (0.163)
row -m ResNet44 -d CIFAR10 -q dorefa -o SGD  -meta FC-Grad                             # 91.539 (0.097)
row -m ResNet44 -d CIFAR10 -q dorefa -o Adam -meta STE                                 # 91.079 (0.064)
row -m ResNet44 -d CIFAR10 -q dorefa -o Adam -meta MultiFC                             # 91.772 (0.073)
row -m ResNet44 -d CIFAR10 -q dorefa -o Adam -meta LSTMFC                              # 91.870 (0.022)
row -m ResNet44 -d CIFAR10 -q dorefa -o Adam -meta FC-Grad                             # 91.989 (0.067)
row -m ResNet44 -d CIFAR10 -q BWN    -o SGD  -meta STE                                 # 82.647 (0.334)
row -m ResNet44 -d CIFAR10 -q BWN    -o SGD  -meta LSTMFC                              # 91.498 (0.057)
row -m ResNet44 -d CIFAR10 -q BWN    -o SGD  -meta FC-Grad                             # 91.614 (0.081)
row -m ResNet44 -d CIFAR10 -q BWN    -o Adam -meta STE                                 # 91.121 (0.023)
row -m ResNet44 -d CIFAR10 -q BWN    -o Adam -meta LSTMFC                              # 91.498 (0.271)
row -m ResNet44 -d CIFAR10 -q BWN    -o Adam -meta FC-Grad                             # 92.107 (0.059)

finish
