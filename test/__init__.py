"""The tests, as a package: without this file `import test` would find the standard library's own."""
