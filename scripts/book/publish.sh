#!/usr/bin/env bash
# Push the built book (_build/html) to the branch gh-pages, from which GitHub Pages serves it and Colab opens the notebooks.
#   scripts/book/publish.sh          the newest book, at the root; folders of releases stay
#   scripts/book/publish.sh v1.0     a release, in its own folder; all else stays
# The branch holds one commit without history, so that it stays small. The work tree is not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-} html=_build/html branch=gh-pages
[[ -f $html/index.html ]] || { echo "publish: $html/index.html is missing; run 'make book' first" >&2; exit 1; }
[[ -z $version || $version =~ ^v[0-9][A-Za-z0-9._-]*$ ]] || {
  echo "publish: the version is '$version'; give a tag that begins with v and a digit, as v1.0" >&2; exit 1; }

GIT_DIR=$(git rev-parse --absolute-git-dir)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GIT_DIR

export GIT_INDEX_FILE=$scratch/book
(cd "$html" && git --work-tree=. add --all --force . && git update-index --force-remove .buildinfo)
book=$(git write-tree)

export GIT_INDEX_FILE=$scratch/published
if [[ $(git ls-remote origin "refs/heads/$branch") ]]; then
  git fetch -q --depth 1 origin "$branch"
  git read-tree FETCH_HEAD
fi
if [[ $version ]]; then  # what this book replaces
  gone=(grep -zE "^${version//./\\.}/")
else
  gone=(grep -zvE '^v[0-9][^/]*/')
fi
git ls-files -z | { "${gone[@]}" || true; } | git update-index -z --force-remove --stdin
git read-tree --prefix="${version:+$version/}" "$book"
git update-index --add --cacheinfo "100644,$(git hash-object -w --stdin </dev/null),.nojekyll"

commit=$(git commit-tree "$(git write-tree)" -m "The book${version:+, $version}, from $(git rev-parse HEAD)")
git push -q --force origin "$commit:refs/heads/$branch"
echo "publish: $branch is at $commit"
