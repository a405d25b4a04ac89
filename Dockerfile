# Two images from one build: the operator and the probe, static, for amd64 and
# arm64, with nothing in them but the binary.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV CGO_ENABLED=0
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags='-s -w' -o /out/ ./cmd/...
# Copying keeps it. Without it, SCTP needs the kernel's: see SECURITY.md.
RUN go run ./hack/filecap /out/probe

FROM gcr.io/distroless/static:nonroot AS operator
COPY --from=build /out/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]

FROM scratch AS probe
COPY --from=build /out/probe /probe
USER 65532:65532
ENTRYPOINT ["/probe"]
