# The probe's guest: one boot sector that does what a kernel does before its first line.
#
#   real mode -> page tables -> long mode -> fills and sums 16 MiB eight times, reloading CR3 between
#   -> says "O" on COM1 and leaves through isa-debug-exit with 0x10 (QEMU ends with 0x21 = 33)
#
# Printing from real mode is not enough: there are servers whose /dev/kvm runs that, slowly, and never
# finishes anything in long mode. Measured on one: this guest takes 0.7 s under tcg, a working kvm
# some 0.1 s, that kvm did not end it in 20 s.
#
# guest.bin is made of this; a test assembles it again and compares:
#   as --64 guest.s -o guest.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary guest.o -o guest.bin
        .code16
        .globl  _start
_start: cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        in      $0x92, %al              # A20
        or      $2, %al
        out     %al, $0x92
        mov     $0x1000, %di            # page tables at 0x1000 to 0x4000: the first 32 MiB, as they are
        xor     %eax, %eax
        mov     $0xc00, %cx
        rep stosl
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        mov     $0x3000, %di
        mov     $0x83, %eax             # present, writable, 2 MiB
        mov     $16, %cx
1:      mov     %eax, (%di)
        add     $0x200000, %eax
        add     $8, %di
        loop    1b
        mov     $0x1000, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        lgdt    gdtr
        mov     %cr0, %eax
        or      $0x80000001, %eax       # paging, protection
        mov     %eax, %cr0
        ljmp    $8, $long

        .code64
long:   mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $8, %ebx                # rounds
2:      mov     $0x400000, %edi
        mov     $0x200000, %ecx
        mov     %rbx, %rax
        rep stosq
        mov     $0x400000, %esi
        mov     $0x200000, %ecx
        xor     %edx, %edx
3:      lodsq
        add     %rax, %rdx
        dec     %ecx
        jnz     3b
        mov     %cr3, %rax              # as a kernel that switches address spaces
        mov     %rax, %cr3
        dec     %ebx
        jnz     2b
        mov     $0x11, %cl              # wrong sum: ends with 35
        cmp     $0x200000, %edx         # the last round summed 2 Mi words of 1
        jne     4f
        mov     $'O', %al
        mov     $0x3f8, %dx
        out     %al, %dx
        mov     $0x10, %cl
4:      mov     %cl, %al
        mov     $0xf4, %dx
        out     %al, %dx
5:      hlt
        jmp     5b

        .align  8
gdt:    .quad   0
        .quad   0x00af9a000000ffff      # code, 64 bit
        .quad   0x00cf92000000ffff      # data
gdtr:   .word   23
        .long   gdt
        .org    510
        .word   0xaa55
