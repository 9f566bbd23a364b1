"""What protocols._native.nghttp2 uses of libnghttp2, declared in C.

`python -m protocols._native.nghttp2_declarations` compiles it into protocols/_native/nghttp2_types.py (cffi, out of line,
ABI mode), which is kept with the sources: a start that parses no C is 20 ms shorter.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

DECLARATIONS = """
    typedef struct { uint8_t *name; uint8_t *value; size_t namelen; size_t valuelen; uint8_t flags; } nghttp2_nv;
    typedef struct nghttp2_hd_deflater nghttp2_hd_deflater;
    typedef struct nghttp2_hd_inflater nghttp2_hd_inflater;
    int nghttp2_hd_deflate_new(nghttp2_hd_deflater **made, size_t largest_table);
    void nghttp2_hd_deflate_del(nghttp2_hd_deflater *deflater);
    int nghttp2_hd_deflate_change_table_size(nghttp2_hd_deflater *deflater, size_t size);
    ssize_t nghttp2_hd_deflate_hd(
        nghttp2_hd_deflater *deflater, uint8_t *buf, size_t buflen, const nghttp2_nv *nva, size_t nvlen);
    int nghttp2_hd_inflate_new(nghttp2_hd_inflater **made);
    void nghttp2_hd_inflate_del(nghttp2_hd_inflater *inflater);
    ssize_t nghttp2_hd_inflate_hd2(
        nghttp2_hd_inflater *inflater, nghttp2_nv *nv, int *flags, const uint8_t *in, size_t inlen, int in_final);
    int nghttp2_hd_inflate_end_headers(nghttp2_hd_inflater *inflater);
"""
HEADER = '''"""What protocols._native.nghttp2_declarations declares, compiled by it."""\n\n'''
COMPILED = Path(__file__).with_name("nghttp2_types.py")


def compile_into(path: Path) -> None:
    """Write the compiled declarations."""
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source("protocols._native.nghttp2_types", None)
    ffi.emit_python_code(str(path))
    path.write_text(HEADER + path.read_text())


if __name__ == "__main__":
    compile_into(COMPILED)
