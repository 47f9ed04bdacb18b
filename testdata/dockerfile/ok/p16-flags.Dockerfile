FROM --platform=$BUILDPLATFORM a AS b
RUN --network=none --security=insecure --mount=type=cache,target=/c --mount=target=/d,rw --device=vendor.com/x=all,required true
COPY --from=b --chown="1:2" --chmod=u=rwX --link --parents=false --exclude=*.x --exclude='a b' a b
ADD --checksum=sha256:00 --keep-git-dir=true --unpack=FALSE --link=true https://a/b /c
COPY -- --not-a-flag /d
RUN --mount=type=secret,id=x,required --mount=type=tmpfs,target=/t,size=64m -- --odd
