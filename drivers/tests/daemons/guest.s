# The guest of the contract suite: one boot sector, real mode, for QEMU's q35 and pc.
#
#   says "up"; echoes what is typed; "q" powers it off, "p" panics (pvpanic);
#   if obedient (byte 509 of the sector is 1): the power button makes it say "bye" and go.
#
# It sleeps between timer ticks, so that it costs next to nothing under tcg.
        .code16
        .globl  _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        cmpb    $1, obedient
        jne     1f
        mov     $0x602, %dx             # PM1_EN: let the power button set its status bit
        mov     $0x0100, %ax
        out     %ax, %dx
1:      mov     $up, %si
        call    say
        sti
main:   mov     $0x600, %dx             # PM1_STS
        in      %dx, %ax
        test    $0x01, %ah              # power button
        jnz     leave
key:    mov     $0x3fd, %dx             # line status of COM1
        in      %dx, %al
        test    $1, %al
        jnz     read
        hlt                             # until the next tick, 18 times a second
        jmp     main
read:   mov     $0x3f8, %dx
        in      %dx, %al
        cmp     $'q', %al
        je      off
        cmp     $'p', %al
        je      panic
        out     %al, %dx
        jmp     key
leave:  mov     $bye, %si
        call    say
off:    mov     $0x604, %dx             # PM1_CNT: sleep enable, type S5
        mov     $0x2000, %ax
        out     %ax, %dx
        jmp     stay
panic:  mov     $words, %si
        call    say
        mov     $0x505, %dx             # pvpanic
        mov     $1, %al
        out     %al, %dx
stay:   cli
        hlt
        jmp     stay

say:    mov     $0x3f8, %dx
2:      lodsb
        test    %al, %al
        jz      3f
        out     %al, %dx
        jmp     2b
3:      ret

up:     .asciz  "up\r\n"
bye:    .asciz  "bye\r\n"
words:  .asciz  "panic\r\n"

        .org    509
obedient:
        .byte   0
        .word   0xaa55
