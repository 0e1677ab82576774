#!/bin/sh
# Build kmstool_enclave_cli and libnsm.so from sources that are pinned by commit; for the Dockerfile.
#
# The steps are those of containers/Dockerfile.al2 in aws-nitro-enclaves-sdk-c v0.4.4, in its order.
set -eu

# <folder> <repository> <commit, and the tag that it had> <options of cmake>
sources() {
  cat <<'END'
aws-lc            aws/aws-lc                     cb7712dfa896d32d55992e2cb13d5fa54fb77002 v1.12.0              -DBUILD_TESTING=0
s2n-tls           aws/s2n-tls                    e954ee5dc878c5c343d35574e7d07246a1e59314 v1.3.46              -DBUILD_TESTING=0
aws-c-common      awslabs/aws-c-common           be35e65a6c67ae2ffd126516c9783ac1dd2e8910 v0.8.0               -DBUILD_TESTING=0
aws-c-sdkutils    awslabs/aws-c-sdkutils         e3c23f4aca31d9e66df25827645f72cbcbfb657a v0.1.2               -DBUILD_TESTING=0
aws-c-cal         awslabs/aws-c-cal              1458c70a26877345ca28e333a092096afd410774 v0.5.18              -DBUILD_TESTING=0
aws-c-io          awslabs/aws-c-io               8f4508f5ec7d2949d5545e2b1ddcd1beb47a76a8 v0.11.0              -DBUILD_TESTING=0 -DUSE_VSOCK=1
aws-c-compression awslabs/aws-c-compression      5fab8bc5ab5321d86f6d153b06062419080820ec v0.2.14              -DBUILD_TESTING=0
aws-c-http        awslabs/aws-c-http             0600662610aa871a11aebe6ed67a11997317cbef v0.7.6               -DBUILD_TESTING=0
aws-c-auth        awslabs/aws-c-auth             831fa583b83574db29cbae139b42e0d7a1d1ebb8 v0.6.15              -DBUILD_TESTING=0
json-c            json-c/json-c                  2f2ddc1f2dbca56c874e8f9c31b5b963202d80e7 json-c-0.16-20220414 -DBUILD_TESTING=0 -DBUILD_SHARED_LIBS=OFF
END
}
NSM_API=4b851f3006c6fa98f23dcffb2cba03b39de9b8af # aws/aws-nitro-enclaves-nsm-api v0.4.0
SDK=e86d2cf4988a831e8d2144b1acb5f06f059b6089     # aws/aws-nitro-enclaves-sdk-c v0.4.4

# fetch <folder> <repository> <commit>: git itself checks that the contents are the commit's.
fetch() {
  git init --quiet "$1"
  git -C "$1" fetch --quiet --depth 1 "https://github.com/$2.git" "$3"
  git -C "$1" checkout --quiet --detach "$3"
}

# install <folder> [<option of cmake>...]
install() {
  folder=$1
  shift
  cmake -GNinja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=/usr -DCMAKE_INSTALL_PREFIX=/usr \
    "$@" -S "$folder" -B "$folder/build"
  cmake --build "$folder/build" --target install
}

# The security module's library comes without a Cargo.lock. `docker build --target nsm-lock` creates
# one, to be stored next to this script as nsm-api.lock; both sides must build with the same one.
fetch aws-nitro-enclaves-nsm-api aws/aws-nitro-enclaves-nsm-api "$NSM_API"
if [ "${1:-}" = nsm-lock ]; then
  cargo generate-lockfile --manifest-path aws-nitro-enclaves-nsm-api/Cargo.toml
  cp aws-nitro-enclaves-nsm-api/Cargo.lock /nsm-api.lock
  exit
fi
if [ ! -f nsm-api.lock ]; then
  echo "error: enclave/nsm-api.lock is missing: create it, see enclave/README.md" >&2
  exit 1
fi
cp nsm-api.lock aws-nitro-enclaves-nsm-api/Cargo.lock
cargo build --locked --release --package nsm-lib \
  --manifest-path aws-nitro-enclaves-nsm-api/Cargo.toml
cp aws-nitro-enclaves-nsm-api/target/release/libnsm.so /usr/lib64/
cp aws-nitro-enclaves-nsm-api/target/release/nsm.h /usr/include/

sources | while read -r folder repository commit _tag options; do
  fetch "$folder" "$repository" "$commit"
  # shellcheck disable=SC2086 # one word contains several options
  install "$folder" $options </dev/null
done
fetch aws-nitro-enclaves-sdk-c aws/aws-nitro-enclaves-sdk-c "$SDK"
install aws-nitro-enclaves-sdk-c
